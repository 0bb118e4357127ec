"""The tokenizer: byte-level BPE of the help desk's language, single digits, the chat template."""

import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lab.world.catalogue import BY_NAME
from scripts.train_lab_model.corpus import Conversation, draw

VOCABULARY = 1536
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# One token each, but text, because the tool-call parser has to see them. The scaffolding of JSON
# and the tools' names would take most of the tokens otherwise, and the model's few parameters are
# better spent on what varies.
MARKUP = (
    "<tool_call>",
    "</tool_call>",
    '{"name": "',
    '", "arguments": {"',
    '": "',
    '", "',
    ":string",
    ":number",
    ":integer",
)
TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SAMPLE = 6_000  # conversations to learn the merges from
ENTITY_MERGE_LIMIT = 12  # longest merged token, in characters


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learn the merges from a sample of training conversations; return the tokenizer."""
    rng = random.Random(f"{seed}-tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Spaces are separate tokens, so that a name has the same tokens after a space and in
            # quotes, and can be copied.
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=ENTITY_MERGE_LIMIT,
        # Names are random, so rarer merges are parts of names, which are better spelt than merged.
        min_frequency=60,
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.chat_template = TEMPLATE.read_text(encoding="utf-8")
    texts = (
        render(wrapped, draw(rng)).replace(START, "\n").replace(END, "\n") for _ in range(SAMPLE)
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.chat_template = TEMPLATE.read_text(encoding="utf-8")
    wrapped.add_tokens([*MARKUP, *BY_NAME])
    return wrapped


def load_or_train(folder: Path, seed: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a training in `folder`, or a new one, saved there."""
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = train_tokenizer(seed)
    tokenizer.save_pretrained(folder)
    return tokenizer


def render(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> str:
    """Return the conversation as the model reads it."""
    return tokenizer.apply_chat_template(
        conversation.messages, tools=conversation.tools, tokenize=False
    )


class Encoder:
    """Encodes conversations as (token ids, mask).

    The mask is true for the assistant's tokens, including the end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.start, self.end = (tokenizer.convert_tokens_to_ids(t) for t in (START, END))
        self.assistant = tokenizer.encode("assistant\n", add_special_tokens=False)

    def __call__(self, conversation: Conversation) -> tuple[list[int], list[bool]]:
        """Return (token ids, mask)."""
        ids = self.tokenizer.encode(render(self.tokenizer, conversation), add_special_tokens=False)
        mask = [False] * len(ids)
        head = len(self.assistant)
        i = 0
        while i < len(ids):
            if ids[i] == self.start and ids[i + 1 : i + 1 + head] == self.assistant:
                i += 1 + head
                while ids[i] != self.end:
                    mask[i] = True
                    i += 1
                mask[i] = True
            i += 1
        return ids, mask
