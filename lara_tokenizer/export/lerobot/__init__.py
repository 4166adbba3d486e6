"""Export to LeRobotDatasets: label columns, in a new dataset or in place, and GR00T's `lapa_action`."""
