"""What a plan would do under its load: engines modelled step by step on the same traffic that `bench` replays."""
