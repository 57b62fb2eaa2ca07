"""What a fitted classifier tells about itself and its mistakes."""
