"""The Open X-Embodiment sets of the paper's setting: one arm, controlled at its end effector.

Facts only: the camera that is used, what the numbers of an action are, and the control rate, which RLDS itself does
not state. `docs/oxe.md` and `hub_configs/training/oxe_mixture.yaml` are written from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

# Where each kind of fact was read, at a fixed state of a public repository.
SOURCES = {
    "openvla": "openvla/openvla at c8f03f4, prismatic/vla/datasets/rlds/oxe/{configs,transforms}.py (cameras, actions)",
    "tfds": "tensorflow/datasets, docs/catalog/<set>.md (feature names, and what they say of an action)",
    "moto": "TencentARC/Moto at 4471f76, common/data/mix_utils.py (control rates)",
    "any4lerobot": "Tavish9/any4lerobot at 6937315, openx2lerobot/oxe_utils/configs.py (control rates)",
    "lara": "lmy1001/LARA at bd0701a, LARA_full/lara_full/data/embodiment_tags.py (which sets)",
}
KINDS = {
    "delta": "a change of pose in one step; the gripper's number may be a position",
    "velocity": "a speed, in the arm's own units",
    "pose": "a pose; the publisher does not say whether it is the target or a change (OpenVLA and Octo read a change)",
}
_XYZ, _RPY, _QUAT = ("x", "y", "z"), ("roll", "pitch", "yaw"), ("qx", "qy", "qz", "qw")
_POSE = (*_XYZ, *_RPY, "gripper")
_RT1 = ("action/world_vector", "action/rotation_delta", "action/gripper_closedness_action")
_OPEN = (*_RT1[:2], "action/open_gripper")
_SUFFIX = "_converted_externally_to_rlds"


@dataclass(frozen=True, slots=True)
class OxeSet:
    """One set. `name` is the one that TFDS knows it by; `aliases` are others in use.

    `camera` is below "observation/". `action` and `state` name features of a step, put side by side; "[7:14]" takes
    some of their numbers, and no `state` leaves it to the names. `layout` names the numbers of an action, `kind` is
    one of `KINDS`. `rate` is in Hz, None where no public table has it. `sources` are keys of `SOURCES`.
    """

    name: str
    camera: str
    rate: float | None
    kind: str
    layout: tuple[str, ...] = _POSE
    action: tuple[str, ...] = ("action",)
    state: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("openvla", "tfds", "moto", "any4lerobot")
    in_mixture: bool = True


def _states(*names: str) -> tuple[str, ...]:
    return tuple(f"observation/{name}" for name in names)


TABLE = (
    OxeSet("austin_buds_dataset" + _SUFFIX, "image", 20, "delta"),
    OxeSet("austin_sailor_dataset" + _SUFFIX, "image", 20, "delta"),
    OxeSet("austin_sirius_dataset" + _SUFFIX, "image", 20, "delta"),
    OxeSet(
        "bc_z",
        "image",
        10,
        "delta",
        layout=(*_XYZ, "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper"),
        # The next ten actions lie in one step; the first of them is its own.
        action=(
            "action/future/xyz_residual[0:3]",
            "action/future/axis_angle_residual[0:3]",
            "action/future/target_close[0:1]",
        ),
        state=_states("present/xyz", "present/axis_angle", "present/sensed_close"),
    ),
    OxeSet("berkeley_autolab_ur5", "image", 5, "delta", action=_RT1, state=_states("robot_state")),
    OxeSet(
        "berkeley_cable_routing",
        "image",
        10,
        "velocity",
        layout=(*_XYZ, *_RPY),
        action=_RT1[:2],
        state=_states("robot_state"),
    ),
    OxeSet("berkeley_fanuc_manipulation", "image", 10, "delta", layout=(*_XYZ, *_RPY)),
    OxeSet(
        "bridge",
        "image",
        5,
        "delta",
        action=_OPEN,
        aliases=("bridge_oxe",),
        sources=("openvla", "tfds", "moto"),
        # The same robot's data as bridge_dataset, an older and smaller release.
        in_mixture=False,
    ),
    OxeSet(
        "bridge_dataset",
        "image_0",
        5,
        "delta",
        aliases=("bridge_orig",),
        sources=("openvla", "moto"),
    ),
    OxeSet(
        "cmu_play_fusion",
        "image",
        5,
        "delta",
        layout=(*_XYZ, "q1", "q2", "q3", "q4", "gripper"),
        action=("action[0:8]",),
    ),
    OxeSet("cmu_stretch", "image", 10, "pose", action=("action[0:7]",)),
    OxeSet("dlr_edan_shared_control" + _SUFFIX, "image", 5, "pose", layout=(*_XYZ, "yaw", "pitch", "roll", "gripper")),
    OxeSet("dobbe", "wrist_image", 3.75, "delta", sources=("openvla", "tfds", "any4lerobot")),
    OxeSet(
        "droid",
        "exterior_image_1_left",
        15,
        "velocity",
        action=("action_dict/cartesian_velocity", "action_dict/gripper_position"),
        state=_states("cartesian_position", "gripper_position"),
        aliases=("droid_100", "r2d2_faceblur"),
        sources=("openvla", "moto", "any4lerobot"),
    ),
    OxeSet(
        "fmb",
        "image_side_1",
        10,
        "delta",
        state=_states("eef_pose", "state_gripper_pose"),
        aliases=("fmb_dataset",),
        sources=("openvla", "tfds", "any4lerobot"),
    ),
    OxeSet(
        "fractal20220817_data",
        "image",
        3,
        "delta",
        action=_RT1,
        state=_states("base_pose_tool_reached", "gripper_closed"),
    ),
    OxeSet(
        "furniture_bench_dataset" + _SUFFIX,
        "image",
        10,
        "delta",
        layout=(*_XYZ, *_QUAT, "gripper"),
        sources=("openvla", "moto", "any4lerobot"),
    ),
    OxeSet("iamlab_cmu_pickup_insert" + _SUFFIX, "image", 20, "pose", layout=(*_XYZ, *_QUAT, "gripper")),
    OxeSet(
        "jaco_play",
        "image",
        10,
        "delta",
        layout=(*_XYZ, "gripper"),
        action=(_RT1[0], _RT1[2]),
        state=_states("end_effector_cartesian_pos"),
    ),
    OxeSet(
        "kuka",
        "image",
        10,
        "delta",
        action=_RT1,
        state=_states("clip_function_input/base_pose_tool_reached", "gripper_closed"),
    ),
    OxeSet(
        "language_table",
        "rgb",
        10,
        "delta",
        layout=("x", "y"),
        state=_states("effector_translation"),
        sources=("openvla", "moto", "any4lerobot"),
    ),
    OxeSet("nyu_door_opening_surprising_effectiveness", "image", 3, "velocity", action=_RT1),
    OxeSet("nyu_franka_play_dataset" + _SUFFIX, "image", 3, "delta", action=("action[7:14]",)),
    OxeSet("roboturk", "front_rgb", 10, "delta", action=_RT1),
    OxeSet("stanford_hydra_dataset" + _SUFFIX, "image", 10, "delta"),
    OxeSet(
        "taco_play",
        "rgb_static",
        15,
        "delta",
        layout=(*_XYZ, "yaw", "pitch", "roll", "gripper"),
        action=("action/rel_actions_world",),
        state=_states("robot_obs"),
    ),
    OxeSet("toto", "image", 30, "delta", action=_OPEN),
    OxeSet("ucsd_kitchen_dataset" + _SUFFIX, "image", 2, "pose", action=("action[0:7]",)),
    OxeSet("utaustin_mutex", "image", 20, "delta"),
    OxeSet(
        "viola",
        "agentview_rgb",
        20,
        "delta",
        action=_RT1,
        state=_states("joint_states", "gripper_states"),
    ),
)
_BY_NAME = {name.removesuffix(_SUFFIX): row for row in TABLE for name in (row.name, *row.aliases)}


def find(name: str) -> OxeSet | None:
    """The row of a dataset, by the name in its dataset_info.json; None where the table has none.

    >>> find("austin_buds_dataset").rate
    20
    """
    return _BY_NAME.get(name.lower().replace("-", "_").removesuffix(_SUFFIX))


def table_markdown() -> str:
    """The page docs/oxe.md."""
    rows = [
        f"| {row.name} | {row.camera} | {'-' if row.rate is None else f'{row.rate:g}'} | {' '.join(row.layout)} "
        f"| {row.kind} | {', '.join(row.sources)} |"
        for row in TABLE
    ]
    return "\n".join((_HEAD, *rows, *_FOOT, ""))


def mixture_yaml() -> str:
    """The recipe hub_configs/training/oxe_mixture.yaml: every set once, so that each is drawn equally often."""
    return _MIXTURE + "".join(f"  - rlds:oxe/{row.name}\n" for row in TABLE if row.in_mixture)


_HEAD = """\
# Open X-Embodiment sets

What the RLDS reader knows of published sets: one arm, controlled at its end effector. It takes the camera below where
none is asked for, puts the numbers of an action side by side in this order, and uses the control rate, which RLDS
files do not state (`--fps` overrides it). Any other RLDS dataset is read too; it then needs `--fps`.

This page is written by `lara_tokenizer.data.rlds.open_x.table_markdown()`; change the table there.

| set | camera | Hz | an action's numbers | kind | sources |
| --- | --- | --- | --- | --- | --- |"""

_FOOT = (
    "",
    "Actions come as recorded: signs of grippers, units and frames differ between sets.",
    "",
    "Kinds:",
    "",
    *(f"- **{kind}**: {meaning}." for kind, meaning in KINDS.items()),
    "",
    "Sources:",
    "",
    *(f"- **{key}**: {where}." for key, where in SOURCES.items()),
    "",
    "The list follows LARA's tags. Left out of it: berkeley_mvp and berkeley_rpt (controlled at the joints), and",
    '"make_tea", for which no published set was found. `bridge` is an older release of `bridge_dataset`, and not in',
    "the mixture of `hub_configs/training/oxe_mixture.yaml`.",
)

_MIXTURE = """\
# LARA (arXiv 2606.07100), A.3: every Open X-Embodiment set has the same probability, whatever its size. A list of
# sources is drawn from like this. Put the sets, as TFDS folders, below oxe/ (oxe/viola/0.1.0/features.json), or write
# your own paths; delete the sources that you do not have. docs/oxe.md says which camera and rate each one is read at.
#   lara-tok train --recipe hub_configs/training/oxe_mixture.yaml --out runs/oxe
# For the paper's architecture take preset, vision_encoder and training from paper_lam.yaml.
# Written by lara_tokenizer.data.rlds.open_x.mixture_yaml().
preset: default
model:
  strides: ["0.6s"]  # a gap that every control rate among these sets can meet
training:
  cache_frames: false  # decoded, the sets would fill a disk: frames are read at each draw
  workers: 8
sources:
"""
