"""The handlers of the routes: generation, embeddings, reranking, classification, administration."""
