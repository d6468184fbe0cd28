"""What ships with the package: a data set (emoji/), its text encoder (clip/), their builder."""
