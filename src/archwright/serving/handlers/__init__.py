"""The handlers of the routes: generation, embeddings, classification, administration."""
