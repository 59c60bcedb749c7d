"""A bundle checked again, anywhere: its claims, its numbers, its engines."""
