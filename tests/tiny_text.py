"""Tiny tokenizers made in memory. Owns: a byte-level and a SentencePiece-like vocabulary. Does not: touch files."""

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "im_end im_start user assistant",
    "naïve café 你好 🙂 Привет",
] * 3
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level() -> tokenizers.Tokenizer:
    """Byte-level BPE with four control tokens, one ordinary added token and `<s>` before every text."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=list(CONTROL), show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.add_tokens([AddedToken("<think>", normalized=False)])
    inner.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return inner


def sentencepiece() -> tokenizers.Tokenizer:
    """Llama-2-like BPE: spaces as `▁`, one put before every text, unknown characters as bytes."""
    pieces = ["<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehlorw<>/s|_imnt", "▁h", "lo"]
    vocab = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
    bpe = models.BPE(vocab=vocab, merges=[("▁", "h"), ("l", "o")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    inner = tokenizers.Tokenizer(bpe)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", *CONTROL)])
    return inner
