"""An independent judge of test/support/training_oracle.ts: PyTorch's own functions, autograd and AdamW in float64, and
transformers' schedule.

Reads a JSON object from standard input with the inputs of each function, and writes one with values and gradients. The
losses follow TRL's trainers: DPOTrainer with loss type sigmoid, RewardTrainer with margin and
center_rewards_coefficient.
"""

import json
import sys

import torch
import transformers
from torch.nn.functional import log_softmax, logsigmoid


def tensor(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def with_gradients(value, *inputs):
    gradients = torch.autograd.grad(value, inputs)
    return {"value": value.item(), "gradients": [gradient.flatten().tolist() for gradient in gradients]}


def log_probs(case):
    hidden, head = tensor(case["hidden"]), tensor(case["head"])
    logps = log_softmax((hidden @ head.T)[case["rows"]], dim=-1)
    chosen = logps.gather(1, torch.tensor(case["labels"]).unsqueeze(1)).squeeze(1)
    answer = with_gradients((chosen * torch.tensor(case["weights"], dtype=torch.float64)).sum(), hidden, head)
    entropy = torch.distributions.Categorical(logits=logps.detach()).entropy().sum().item()
    return {**answer, "logProbs": chosen.tolist(), "entropy": entropy}


def dpo(case):
    policy, reference = tensor(case["policy"]), torch.tensor(case["reference"], dtype=torch.float64)
    chosen, rejected = torch.tensor(case["pairs"]).T
    logratios = policy - reference
    delta = case["beta"] * (logratios[chosen] - logratios[rejected])
    smoothing = case["labelSmoothing"]
    losses = -logsigmoid(delta) * (1 - smoothing) - logsigmoid(-delta) * smoothing
    return with_gradients(losses.mean(), policy)


def rm(case):
    rewards = tensor(case["rewards"])
    losses = []
    for pairs in case["samples"]:
        chosen, rejected = (rewards[side] for side in torch.tensor(pairs).T)
        loss = -logsigmoid(chosen - rejected - case["margin"]).mean()
        losses.append(loss + case["centering"] * torch.mean((chosen + rejected) ** 2))
    return with_gradients(torch.stack(losses).mean(), rewards)


def adamw(case):
    parameters = [tensor(values) for values in case["values"]]
    settings = case["settings"]
    decays = [
        {"params": [p], "weight_decay": settings["weightDecay"] if d else 0} for p, d in zip(parameters, case["decays"])
    ]
    optimizer = torch.optim.AdamW(decays, betas=(settings["beta1"], settings["beta2"]), eps=settings["epsilon"])
    norms = []
    for gradients, rate in zip(case["gradients"], case["rates"]):
        for parameter, gradient, group in zip(parameters, gradients, optimizer.param_groups):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
            group["lr"] = rate
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, settings["maxNorm"]).item())
        optimizer.step()
    return {"values": [parameter.tolist() for parameter in parameters], "norms": norms}


def schedule(case):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=case["peak"])
    scheduler = transformers.get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, case["warmup"], case["steps"], min_lr_rate=case["floor"]
    )
    rates = []
    for _ in range(case["steps"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}", file=sys.stderr)
    judges = {"logProbs": log_probs, "dpo": dpo, "rm": rm, "adamw": adamw, "schedule": schedule}
    json.dump(
        {name: [judges[name](case) for case in cases] for name, cases in json.load(sys.stdin).items()}, sys.stdout
    )
