"""A token table as a target: which codes belong to which frame of which episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lara_tokenizer.table import read_metadata, read_tokens

MISSING = -1


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Codes of one camera at one stride, by episode; `num_codes` a pair, each one of `codebook_size`."""

    path: str
    num_codes: int
    codebook_size: int
    rows: dict[str, tuple[np.ndarray, np.ndarray]]  # episode -> frame_index (n,), codes (n, N)

    @classmethod
    def read(cls, path: str | Path, camera: str = "") -> CodeTable:
        """Read what `lara-tok encode` wrote; invalid rows are left out.

        Raises ValueError for a table without codes, of several strides, or of several cameras where none is named.
        """
        metadata = read_metadata(path)
        size = metadata["model"]["codebook_size"]
        table = read_tokens(path)
        if "codes" not in table.column_names:
            raise ValueError(f"{path} holds no codes: it comes from a model without a codebook.")
        for column, what in (("stride", "strides"), ("camera", "cameras")):
            found = sorted(set(table[column].to_pylist()))
            if column == "camera" and len(found) > 1:
                chosen = [name for name in found if camera in (name, name.rpartition(".")[2])]
                if len(chosen) != 1:
                    raise ValueError(f"{path} holds cameras {', '.join(found)}: name one as lam_camera.")
                table = table.filter([name == chosen[0] for name in table["camera"].to_pylist()])
            elif len(found) > 1:
                raise ValueError(f"{path} holds {what} {', '.join(found)}: encode with one --stride.")
        table = table.filter(table["valid"])
        if not len(table):
            raise ValueError(f"{path} holds no valid row.")
        codes = np.stack(table["codes"].to_numpy(zero_copy_only=False))
        frames, episodes = table["frame_index"].to_numpy(), np.array(table["episode"].to_pylist())
        rows = {name: (frames[episodes == name], codes[episodes == name]) for name in dict.fromkeys(episodes.tolist())}
        return cls(str(path), codes.shape[1], int(size), rows)

    def of(self, episode: str, num_frames: int) -> np.ndarray:
        """int16 (num_frames, N), -1 where the table has no row. Raises ValueError for a row past the episode's end."""
        codes = np.full((num_frames, self.num_codes), MISSING, np.int16)
        frames, known = self.rows.get(episode, (np.zeros(0, np.int64), np.zeros((0, self.num_codes), np.int16)))
        if len(frames) and frames.max() >= num_frames:
            raise ValueError(
                f"{self.path} has codes at frame {frames.max()} of episode {episode!r}, which has {num_frames} frames: "
                "it was made from another source."
            )
        codes[frames] = known
        return codes
