"""What AsynDM and the regional deviation share: masks, and rows of times."""
