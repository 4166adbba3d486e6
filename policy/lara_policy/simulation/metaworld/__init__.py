"""Meta-World: tasks, scripted experts, demonstrations as a LeRobotDataset, and the environment of roll-outs."""
