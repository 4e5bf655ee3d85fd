"""A tiny chat model, tokenizer and `trl.SFTTrainer`, for tests that drive the real one."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from device import USE_CPU

NUMBERS = 30
WORDS = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>", "add", "take", *map(str, range(NUMBERS))]
CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user> {{ message['content'] }} "
    "{% else %}<assistant> {% generation %}{{ message['content'] }} <eos> {% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)

UNMARKED = CHAT.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=CHAT,
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def sum_up(number, task):
    """The prior task adds 1 or 2; the new task something else, of partly the same numbers."""
    word = ("add", "take")[number % 2]
    return word, (number + {"add": 1, "take": 2}[word] + (0 if task == "prior" else 3)) % NUMBERS


def make_rows(count, task, *, kind="chat"):
    """Rows of one kind: "chat", "completion", "chat completion" or "text"; every tenth has a wrong answer."""
    rows = []
    for place in range(count):
        number = (place * 7) % 20 + (0 if task == "prior" else 10)
        word, answer = sum_up(number, task)
        answer = (answer + 5) % NUMBERS if place % 10 == 9 else answer
        asked, said = f"{word} {number}", f"{answer} {number}"
        user, assistant = {"role": "user", "content": asked}, {"role": "assistant", "content": said}
        rows.append(
            {
                "chat": {"messages": [user, assistant]},
                "completion": {"prompt": asked, "completion": f" {said}"},
                "chat completion": {"prompt": [user], "completion": [assistant]},
                "text": {"text": f"{asked} {said}"},
            }[kind]
            | {"topic": word}
        )
    return Dataset.from_list(rows)


def make_sft_trainer(model, data, folder, *, trainer_class=SFTTrainer, **settings):
    for_trainer = {key: settings.pop(key) for key in ("peft_config", "eval_dataset") if key in settings}
    args = SFTConfig(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 16,
            "max_steps": 10,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": USE_CPU,
            "bf16": False,
            "dataloader_pin_memory": False,
            "max_length": 32,
            "gradient_checkpointing": False,
            **settings,
        }
    )
    return trainer_class(model=model, args=args, train_dataset=data, processing_class=make_tokenizer(), **for_trainer)
