"""Exact frames of video files and image sequences."""
