"""What every command of the trainer needs: settings, the run folder, the console, ranks, seeds."""
