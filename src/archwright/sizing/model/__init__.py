"""What a model needs: architecture, weights, number formats, parallel layout, engine memory."""
