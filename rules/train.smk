"""Images, targets, weights and plan come in; a model folder with weights, description and curves goes out."""


rule train:
    input:
        asked=asked("train"),
        plan=after("train", "<results>/plan/{model}.json"),
        groundtruth=after("train", truths_to_train_on),
        weights=after("train", weights_of_model),
        start=after("train", network_before),
    output:
        stamp="<results>/train/{model}.json",
    log:
        "<results>/logs/train/{model}.log",
    benchmark:
        "<results>/benchmarks/train/{model}.jsonl"
    wildcard_constraints:
        model=NETWORKS,
    conda:
        "../envs/unet.yaml"
    threads: 16
    resources:
        mem_mb=16000,
        runtime=2880,
    params:
        cfg=options("train"),
        record=record("train"),
    message:
        "train: {wildcards.model}, training"
    script:
        "../scripts/train.py"


# A model that is the mean of several networks: its folds, or other models.
rule ensemble:
    input:
        asked=asked("train"),
        networks=after("train", networks_of_model),
    output:
        stamp="<results>/train/{model}.json",
    log:
        "<results>/logs/ensemble/{model}.log",
    wildcard_constraints:
        model=SEVERAL,
    localrule: True
    conda:
        "../envs/unet.yaml"
    params:
        record=record("train"),
    message:
        "ensemble: {wildcards.model}, the mean of several networks"
    script:
        "../scripts/ensemble.py"
