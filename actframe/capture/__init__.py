"""Model -> tensors."""
