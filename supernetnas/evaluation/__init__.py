"""What predictions and rankings are worth."""
