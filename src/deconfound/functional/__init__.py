"""Pure tensor mathematics: no files, no state, no global random numbers."""
