"""For those who test code that uses actframe: tiny seeded models."""
