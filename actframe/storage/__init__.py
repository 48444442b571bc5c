"""Bundle -> disk."""
