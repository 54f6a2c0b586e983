"""Architecture, weights, number formats, parallel layout and engine memory of a model."""
