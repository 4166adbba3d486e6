"""The meaning of an action's numbers (changes, positions, angles, grippers), and the motion that they stand for."""
