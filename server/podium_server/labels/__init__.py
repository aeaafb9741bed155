"""What a teacher said of lists, kept for training: its form, its making, and what trainers read."""
