"""The user's own Python: imported, and its lines named where something is wrong there."""
