"""What the numbers of an action are (changes, positions, angles, grippers), and the motion that they stand for."""
