"""The last hidden states of an open_clip text tower, as a torch module computes them."""


def last_norm(model):
    """Return the layer norm whose output is the last state of every token, or None."""
    tower = getattr(model, "text", model)
    # CoCa applies its last norm after pooling.
    has_class_token = getattr(tower, "cls_emb", None) is not None
    return None if has_class_token else getattr(tower, "ln_final", None)


def encode_sequences(model, tokens):
    """Return embeddings [N, dim] of length 1, and last states [N, T, width].

    The model must have a last norm.
    """
    states = []

    def keep_output(module, inputs, output):
        states.append(output)

    hook = last_norm(model).register_forward_hook(keep_output)
    try:
        return model.encode_text(tokens, normalize=True), states[0]
    finally:
        hook.remove()
