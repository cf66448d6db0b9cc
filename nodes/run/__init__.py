"""What acts inside one sampling run."""
