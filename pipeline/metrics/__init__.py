"""What a result is measured with: features of images, their moments, distances between moments."""
