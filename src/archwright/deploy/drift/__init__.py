"""The state of a cluster or of Terraform against the files of a bundle, from JSON that their own programs print."""
