"""Computes the last hidden states of an open_clip text tower in torch."""


def last_norm(model):
    """Return the layer norm whose output is the last hidden state of each token, or None."""
    tower = getattr(model, "text", model)
    # CoCa applies its last norm after pooling.
    has_class_token = getattr(tower, "cls_emb", None) is not None
    return None if has_class_token else getattr(tower, "ln_final", None)


def encode_sequences(model, tokens):
    """Return the embeddings and the last hidden states of prompts.

    Args:
      model: an open_clip model for which `last_norm` is not None.
      tokens: padded token ids, int64 [N, T].

    Returns:
      Embeddings of norm 1, [N, dim], and the states of all tokens, [N, T, width].
    """
    states = []

    def keep_output(module, inputs, output):
        states.append(output)

    hook = last_norm(model).register_forward_hook(keep_output)
    try:
        return model.encode_text(tokens, normalize=True), states[0]
    finally:
        hook.remove()
