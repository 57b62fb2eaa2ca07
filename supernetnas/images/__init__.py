"""From whatever a user has to one set of images, ready for a network."""
