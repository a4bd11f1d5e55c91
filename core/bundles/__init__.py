"""What ships: the bundle, its manifest, self-test and signature."""
