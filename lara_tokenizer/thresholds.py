"""Every number that decides whether latent actions are alive, and what a pair shows, in one place.

The verdict on labels (`verdict/`), stage 1 (`train/watch/monitor.py`) and joint training
(`lara_policy/refine/monitor.py`) judge by these. This file imports nothing, so that a table can be judged without
torch. Formulas of the measures are in `metrics.py`.
"""

from __future__ import annotations

# --- Pixels -----------------------------------------------------------------------------------------------------------
# A pixel moves when its colour, averaged over the channels, changes by more than this share of the full range.
MOVING_PIXEL = 0.05
# A pair is idle when a pixel changes by less than one of 255 steps on average: nothing but sensor noise.
IDLE_MOTION = 1 / 255
# Global motion (encode/camera_motion.py): a cell moves if its squared correlation with the same cell of the other frame
# is at most this, and a pair does if at least this share of its patterned cells move.
SAME_PATTERN = 0.8
GLOBAL_MOTION_SHARE = 0.6

# --- Spread of z: sqrt(D) * mean_d std(z / |z|), about 1 where z is isotropic, 0 where all z point one way ------------
# Runs that collapsed in toy settings were below a third; below a half deserves a look.
SPREAD_ALARM = 0.25
SPREAD_WARNING = 0.5
# z of an untrained model varies as much as that of a random-init one, up to this factor (the luck of the weights).
SPREAD_RATIO_TO_RANDOM = 3.0
# Joint training judges narrowing against the spread at the start: few tasks have little spread to begin with.
SPREAD_SHARE_OF_START = 0.9

# --- Directions and likeness of z -------------------------------------------------------------------------------------
RANK_SHARE_OF_START = 0.5  # effective rank that joint training must keep
MEAN_COSINE_ALARM = 0.9  # mean cosine between the z of two pairs: 0 is healthy

# --- Codebook: perplexity is the number of codes in effective use, 1 to K ---------------------------------------------
PERPLEXITY_FLOOR = 2.0  # as good as a single code in use
PERPLEXITY_SHARE_OF_BEST = 0.25  # of the best so far (stage 1) or of the start (joint training) that must be kept
# Share of the codes in effective use over those that could be. Joint training should not start below a quarter; runs
# whose codebook had died kept a handful of 128.
CODE_USE_WARNING = 0.25
READY_CODE_USE = 0.25  # that a tokenizer must have before a policy may pull at it
# log(perplexity) / log(K) of a table's moving pairs: 1 where K codes are used alike, 0 for a single one.
POOLED_LOG_USE = 0.5  # of all positions pooled: 11 codes of 128
POSITION_LOG_USE = 0.3  # mean over positions: 4 codes of 128
DEAD_POSITION_SHARE = 0.9  # share of its most frequent code at which a position carries no information
DEAD_POSITIONS_ALARM = 0.5  # share of dead positions above which most of the label is a constant
DOMINANT_SHARE = 0.5  # share of the pairs in which all N codes are the same

# --- Decoder ----------------------------------------------------------------------------------------------------------
# A decoder that reads z does far worse with another pair's codes; less than 2 % worse means it ignores them.
Z_GAIN_ALARM = 0.02
Z_GAIN_WARNING = 0.1
# Showing frame t again scores 0; a hundredth below is no longer the same.
COPYING_WARNING = -0.01
# Gain over a random-init decoder below which a decoder counts as untrained.
LEARNED_GAIN = 0.05

# --- Nuisances: R2 of z on camera shake, light, background ------------------------------------------------------------
# Below a tenth a nuisance is hardly there, whatever the actions do; above a quarter it is worth a warning.
NUISANCE_ALARM = 0.1
NUISANCE_WARNING = 0.25

# --- Pairs of a table -------------------------------------------------------------------------------------------------
ENOUGH_PAIRS = 30  # fewer say nothing about a codebook, or a camera
IDLE_SHARE_WARNING = 0.3  # of the pairs of a camera
CAMERA_MOTION_SHARE = 0.3  # of the moving pairs of a camera; a fixed one in front of a robot stays below 0.1

STRIDE_TOLERANCE = 0.25  # a stride may be so far outside of those that a model was trained on

# --- Alignment loss of joint training ---------------------------------------------------------------------------------
ALIGNMENT_SOLVED = 0.02  # loss below which z may have become a constant
GRADIENT_CONFLICTS = 5  # checks in a row with opposed gradients before the warning

# --- Patience: checks in a row below a limit before training stops (one bad batch is no collapse) ---------------------
STAGE_ONE_PATIENCE = 3
JOINT_PATIENCE = 2
