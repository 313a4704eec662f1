"""The commands that show what an answer rests on."""
