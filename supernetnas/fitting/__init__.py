"""What a fit goes through, stage by stage."""
