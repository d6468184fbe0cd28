"""The data that ships with the package: a data set (emoji/), its CLIP (clip/) and a classifier.

`python -m tools.build_embedded` builds the first two, and `python -m tools.train_classifier` the
classifier of Fashion MNIST (fashion_mnist/).
"""
