"""One file per topology method."""
