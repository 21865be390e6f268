"""What everything that trains shares: recipes, the Trainer's arguments, the output directory, checkpoints, the run."""
