"""Files written whole and read with suspicion, here and on the Hugging Face Hub."""
