from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.errors import UserError
from common.training.checkpoint import load_checkpoint, save_checkpoint
from common.training.engine import build_seeded, train_one_epoch
from common.video.clips import Clip
from common.video.config import VideoConfig
from common.video.dataset import collate_clips
from common.video.network import VIDEO_KEYS, TemporalCNNGRU, load_spotter
from common.video.training import (
    ClipStep,
    clip_metrics,
    evaluate_spotter,
    load_clips,
    load_test_clips,
    of_frames,
    reliability_by_length,
    score_clips,
    start_spotter,
    train_spotter,
)

TINY = {"encoder_name": "mobilenetv3_small_100", "hidden": 8, "layers": 1, "dropout": 0.0}


class Clips(Dataset):
    """Eight clips of noise, of one to three frames each."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        shape = (3, 3, 64, 64)
        self.clips = [Clip(f"{number}.mp4", bool(number % 3 == 0), "train") for number in range(8)]
        self.frames = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in self.clips]

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        label = torch.tensor(int(self.clips[index].fake))
        return {"frames": self.frames[index][: 1 + index % 3], "label": label, "index": index}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Forty pictures, real ones smooth, fake ones grainy, and a folder of four frames of each kind in either split."""
    folder, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)

    def draw(path, noise):
        image = cv2.resize(rng.integers(60, 190, (4, 4, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8))

    for split, count in (("train", 10), ("val", 5), ("test", 5)):
        for label, noise in (("real", 0), ("fake", 50)):
            for number in range(count):
                draw(folder / split / label / f"{number}.png", noise)
            for number in range(4):
                draw(folder / split / label / "clip" / f"{number}.png", noise)
    return folder


@pytest.fixture
def config(faces, tmp_path):
    config = VideoConfig(name="tiny", data_dir=faces, faces="crops", tracker="none", encoder_weights="none").quick()
    fields = {"models_dir": tmp_path / "models", "cache_dir": tmp_path / "cache", "encoder_weights": "none"}
    return replace(config, image_size=64, frames=4, epochs=3, frozen_epochs=1, lr=2e-3, **TINY | fields)


def moves(batch_size, accumulation):
    """How far an epoch of plain gradient descent moves the weights; batch norm stays as it began."""
    model, data = build_seeded(0, lambda: TemporalCNNGRU(**TINY, freeze_batch_norm=True)), Clips()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    accelerator = Accelerator(gradient_accumulation_steps=accumulation)
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)  # so that the moves are far above float precision
    loader = DataLoader(data, batch_size, collate_fn=collate_clips)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    step = ClipStep(data.clips, 2.0, 0.2)
    train_one_epoch(accelerator, model, step, optimizer, scheduler, loader, tqdm(disable=True))
    return {name: parameter.detach() - start[name] for name, parameter in model.named_parameters()}


def test_two_accumulated_batches_of_four_are_a_batch_of_eight():
    """Though they hold clips of other lengths and classes."""
    whole, halves, quarter = moves(8, 1), moves(4, 2), moves(4, 1)
    for name in whole:
        assert (whole[name] - halves[name]).abs().max() <= 1e-6 + 1e-4 * whole[name].abs().max(), name
    moved = [name for name in whole if whole[name].abs().max() > 1e-4]
    assert {name.split(".")[0] for name in moved} == {"features", "attention", "gru", "head"}
    assert any((whole[name] - quarter[name]).abs().max() > 1e-2 * whole[name].abs().max() for name in moved)


def test_both_classes_weigh_the_same():
    step = ClipStep([Clip("a", True, "train")] * 2 + [Clip("b", False, "train")] * 6, 0.0, 0.0)
    assert step.loss.weights.tolist() == pytest.approx([4 / 6, 4 / 2])
    model = lambda frames, lengths, return_frames: (torch.zeros(8, 2), None)  # noqa: E731
    batch = {"frames": None, "lengths": None, "label": torch.tensor([1] * 2 + [0] * 6)}
    assert step(model, batch).item() == pytest.approx(np.log(2))


def test_the_frames_loss_is_the_mean_of_clips_means():
    """Of a clip of one frame and one of three; what is behind its end counts nothing."""
    step = ClipStep([Clip("a", True, "train"), Clip("b", False, "train")], 0.0, 0.5)
    frames = torch.zeros(2, 3, 2)
    frames[0, 1:] = torch.tensor([9.0, -9.0])
    frames[1, 0] = torch.tensor([np.log(3), 0.0])
    model = lambda *_, return_frames: (torch.zeros(2, 2), frames)  # noqa: E731
    batch = {"frames": None, "lengths": torch.tensor([1, 3]), "label": torch.tensor([1, 0])}
    expected = (np.log(2) + (np.log(4 / 3) + 2 * np.log(2)) / 3) / 2
    assert step(model, batch).item() == pytest.approx(np.log(2) + 0.5 * expected, rel=1e-6)


def test_scores_come_in_the_data_sets_order_and_of_true_frames_alone():
    model, data = build_seeded(0, lambda: TemporalCNNGRU(**TINY)).eval(), Clips()
    loader = DataLoader(data, 3, collate_fn=collate_clips, sampler=[5, 2, 7, 0, 1, 3, 6, 4])
    scores, frames = score_clips(Accelerator(), model, loader)
    assert [len(own) for own in frames] == [1 + index % 3 for index in range(8)]
    with torch.no_grad():
        for index in range(8):
            real, fake = model(data[index]["frames"][None])[0].double().tolist()
            assert scores[index] == pytest.approx(1 / (1 + np.exp(real - fake)), abs=1e-6)
    assert frames[0][0] == pytest.approx(scores[0]) and frames[3][0] == pytest.approx(scores[3])


def test_a_diverged_network_is_said():
    model = TemporalCNNGRU(**TINY)
    with torch.no_grad():
        model.head[-1].bias.fill_(torch.nan)
    with pytest.raises(UserError, match=r"the training diverged.*Lower --lr"):
        score_clips(Accelerator(), model, DataLoader(Clips(), 8, collate_fn=collate_clips))


def test_frames_have_their_clips_labels():
    scores, labels = of_frames([np.array([0.1, 0.2]), np.array([0.9])], np.array([False, True]))
    assert scores.tolist() == [0.1, 0.2, 0.9] and labels.tolist() == [False, False, True]
    metrics = clip_metrics(scores, labels, {"slope": 0.0, "intercept": 0.0}, threshold=0.6)
    assert metrics["auc"] == 1.0  # though the calibration calls all of them 0.5, and none of them fake
    assert metrics["accuracy"] == pytest.approx(2 / 3)


def test_classes_that_were_saved_otherwise_are_told(config, faces, tmp_path, capsys):
    load_clips(config)
    assert "told apart" not in capsys.readouterr().out
    for path in faces.rglob("*.png"):
        copy = tmp_path / "saved" / path.relative_to(faces)
        copy.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(path))
        cv2.imwrite(str(copy.with_suffix(".jpg") if "fake" in copy.parts else copy), image)
    load_clips(replace(config, data_dir=tmp_path / "saved"))
    assert "note: real and fake clips are told apart by how their files are stored" in capsys.readouterr().out


def test_it_learns_and_is_tested(config):
    clips, cache = load_clips(config)
    assert len(clips) == 46
    model, config = start_spotter(config)
    metrics = train_spotter(config, model, clips, cache)
    assert metrics["auc"] > 0.8 and {"frame_auc", "ap", "accuracy"} <= set(metrics)
    test = config.evaluation()
    table = evaluate_spotter(test, clips, cache)
    assert table["of"].tolist() == ["clips", "frames"]
    assert table[["real", "fake"]].to_numpy().tolist() == [[6, 6], [9, 9]]
    assert (table["auc"] > 0.8).all()

    checkpoint = load_checkpoint(config.models_dir / "tiny_best.pth", VIDEO_KEYS)
    assert checkpoint["config"]["encoder_name"] == "mobilenetv3_small_100"
    assert checkpoint["best_auc"] == metrics["auc"]
    # Numbers of frames and pixels are the checkpoint's.
    again, cache = load_test_clips(test)
    assert {clip.split for clip in again} == {"test"}
    assert evaluate_spotter(test, again, cache).equals(table)


def test_the_test_shows_whether_probabilities_hold_for_shorter_clips(config):
    clips, cache = load_clips(config)
    model, config = start_spotter(replace(config, epochs=1, frozen_epochs=0))
    train_spotter(config, model, clips, cache)
    table, figure = reliability_by_length(config.evaluation(), clips, cache)
    assert table["frames"].tolist() == [1, 2, 4] and (table["clips"] == 12).all()
    assert (table["share of fakes"] == 0.5).all() and table["mean probability"].between(0, 1).all()
    assert [line.get_label() for line in figure.axes[0].containers] == [
        *("one frame", "at most 2 frames", "at most 4 frames")
    ]
    whole = evaluate_spotter(config.evaluation(), clips, cache).set_index("of").loc["clips"]
    assert table.iloc[-1][["auc", "calibration_error"]].tolist() == whole[["auc", "calibration_error"]].tolist()
    checkpoint = load_checkpoint(config.models_dir / "tiny_best.pth", VIDEO_KEYS)
    assert checkpoint["config"]["steps"] == 4 and (checkpoint["stills_only"], checkpoint["self_blended"]) == (0, 0)
    stills = [clip for clip in clips if clip.path.suffix]
    table, figure = reliability_by_length(config.evaluation(), stills, cache)
    assert table["frames"].tolist() == [1] and len(figure.axes[0].containers) == 1


def test_a_class_of_single_images_is_noted(config, capsys):
    """One is enough, in training or validation."""
    clips, cache = load_clips(config)
    clips = [clip for clip in clips if clip.path.suffix or clip.fake]
    model, config = start_spotter(replace(config, epochs=0))
    train_spotter(config, model, clips, cache)
    assert load_checkpoint(config.models_dir / "tiny_best.pth", VIDEO_KEYS)["stills_only"]
    assert "validation has single images alone: no verdicts on clips of several frames" in capsys.readouterr().out


def test_real_clips_alone_train_a_network(config, faces, tmp_path, capsys):
    (tmp_path / "real alone").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / "real alone" / split).mkdir()
        (tmp_path / "real alone" / split / "real").symlink_to(faces / split / "real")
    config = replace(config, data_dir=tmp_path / "real alone", epochs=1, frozen_epochs=0)
    clips, cache = load_clips(config)
    assert "there are no fake clips to train on; they are made of the real ones" in capsys.readouterr().out
    assert len(clips) == 2 * 23 and sum(clip.self_blended for clip in clips) == 23
    model, config = start_spotter(config)
    train_spotter(config, model, clips, cache)
    checkpoint = load_checkpoint(config.models_dir / "tiny_best.pth", VIDEO_KEYS)
    assert (checkpoint["stills_only"], checkpoint["self_blended"]) == (False, True)
    capsys.readouterr()
    table = evaluate_spotter(config.evaluation(), *load_test_clips(config.evaluation()))
    assert "no fake clips to test on; they are made of the real ones" in capsys.readouterr().out
    assert table.equals(evaluate_spotter(config.evaluation(), clips, cache))
    assert table[["real", "fake"]].to_numpy()[0].tolist() == [6, 6]
    # Real fakes are the better test.
    (tmp_path / "real alone" / "test" / "fake").symlink_to(faces / "test" / "fake")
    again, _ = load_test_clips(config.evaluation())
    assert sum(clip.fake for clip in again) == 6 and not any(clip.self_blended for clip in again)


def test_fakes_are_not_made_where_no_face_is_found_or_some_are_there(config, faces, tmp_path):
    (tmp_path / "some").mkdir()
    for split in ("train", "val"):
        (tmp_path / "some" / split).mkdir()
        (tmp_path / "some" / split / "real").symlink_to(faces / split / "real")
    config = replace(config, data_dir=tmp_path / "some")
    with pytest.raises(UserError, match=r"no fakes to train on.*not with the face detector centre"):
        load_clips(replace(config, faces="centre"))
    (tmp_path / "some" / "val" / "fake").symlink_to(faces / "val" / "fake")
    with pytest.raises(UserError, match="train has no fake clips"):
        load_clips(config)
    assert not config.cache_dir.exists()


def test_the_encoder_is_frozen_for_its_epochs(config):
    clips, cache = load_clips(config)
    config = replace(config, epochs=2, frozen_epochs=1)
    model, config = start_spotter(config)
    first = {name: value.clone() for name, value in model.features.backbone.state_dict().items()}
    gru = model.gru.weight_ih_l0.detach().clone()
    seen = []

    def spy(name, value):
        seen.append((name, all(torch.equal(first[key], own) for key, own in value.items())))

    hook = model.register_forward_pre_hook(
        lambda module, _: spy(module.train_backbone, module.features.backbone.state_dict())
    )
    train_spotter(config, model, clips, cache)
    hook.remove()
    assert all(same for training, same in seen if not training)
    assert not all(same for training, same in seen if training)
    assert not torch.equal(gru, model.gru.weight_ih_l0)


def test_a_checkpoint_without_attention_and_fusion_is_the_network_without(tmp_path, capsys):
    plain = build_seeded(0, lambda: TemporalCNNGRU(**TINY, attention=False, multi_scale=False)).eval()
    config = replace(VideoConfig(name="old"), **TINY).plain()
    checkpoint = dict.fromkeys(VIDEO_KEYS) | {"config": config, "model_state_dict": plain.state_dict()}
    save_checkpoint(checkpoint, tmp_path / "old_best.pth")
    frames = torch.rand(1, 2, 3, 64, 64)
    for seed in (1, 2):
        torch.manual_seed(seed)
        loaded = load_spotter(load_checkpoint(tmp_path / "old_best.pth", VIDEO_KEYS), tmp_path / "old_best.pth")
        assert loaded.attention is not None
        assert "old_best.pth has no attention and no fusion" in capsys.readouterr().out
        with torch.no_grad():
            assert torch.equal(loaded(frames), plain(frames))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].pop("frames"), "its config lacks frames"),
        (lambda c: c["model_state_dict"].pop("gru.weight_ih_l0"), "do not fit the network of its config"),
        (lambda c: c["config"].update(encoder_name="tf_efficientnet_b0"), "do not fit the network of its config"),
        (lambda c: c["config"].update(encoder_name="hf_hub:timm/resnet18"), "no network can be built from its config"),
        (lambda c: c["config"].update(hidden=10**9), "no network can be built from its config"),
        (lambda c: c["config"].update(steps=-1), "no network can be built from its config"),
        (lambda c: c["config"].update(steps="many"), "no network can be built from its config"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, change, message):
    model, config = TemporalCNNGRU(**TINY), replace(VideoConfig(name="a"), **TINY).plain()
    checkpoint = {"config": config, "model_state_dict": model.state_dict()}
    change(checkpoint)
    with pytest.raises(UserError, match=f"a.pth.*{message}"):
        load_spotter(checkpoint, tmp_path / "a.pth")


def test_a_class_that_is_missing_is_said(config, faces, tmp_path):
    (tmp_path / "some" / "train").mkdir(parents=True)
    (tmp_path / "some" / "train" / "real").symlink_to(faces / "train" / "real")
    (tmp_path / "some" / "val").symlink_to(faces / "val")
    with pytest.raises(UserError, match="train"):
        load_clips(replace(config, data_dir=tmp_path / "some"))
    assert not config.cache_dir.exists()


@pytest.fixture
def accelerator_of_16_bits():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_validation_leaves_mixed_precision_as_it_is(accelerator_of_16_bits):
    """And scores without it."""
    accelerator = accelerator_of_16_bits
    seen = []
    model = build_seeded(0, lambda: TemporalCNNGRU(**TINY))
    model.head[0].register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    model, loader = accelerator.prepare(model, DataLoader(Clips(), 8, collate_fn=collate_clips))
    batch = next(iter(loader))
    for _ in range(2):
        model.train()(batch["frames"], batch["lengths"])
        score_clips(accelerator, model, loader)
    # of the clips in training; of the clips and of their frames in validation
    assert seen == [torch.bfloat16, torch.float32, torch.float32] * 2


def test_what_was_trained_on_is_not_tested_on(config, faces, tmp_path):
    clips, cache = load_clips(config)
    model, config = start_spotter(replace(config, epochs=1, frozen_epochs=0))
    train_spotter(config, model, clips, cache)
    (tmp_path / "again" / "test").mkdir(parents=True)
    for label in ("real", "fake"):
        (tmp_path / "again" / "test" / label).symlink_to(faces / "train" / label)
    test = replace(config.evaluation(), data_dir=tmp_path / "again")
    with pytest.raises(UserError, match=r"tiny_best.pth was trained on 22 of the 22 clips to test, such as .*png"):
        evaluate_spotter(test, *load_test_clips(test))


def test_a_test_draws_the_splits_of_the_training(config, faces, tmp_path):
    """By the checkpoint's seed."""
    both = tmp_path / "both"
    both.mkdir()
    for label in ("real", "fake"):
        (both / label).symlink_to(faces / "train" / label)
    clips, cache = load_clips(replace(config, data_dir=both, seed=3))
    tested = {clip.path for clip in clips if clip.split == "test"}
    model, trained = start_spotter(replace(config, data_dir=both, seed=3, epochs=0))
    train_spotter(trained, model, clips, cache)
    again, _ = load_test_clips(trained.evaluation())
    assert {clip.path for clip in again} == tested
    assert {clip.path for clip in load_clips(replace(config, data_dir=both))[0] if clip.split == "test"} != tested


def test_clips_whose_face_was_hardly_found_are_left_out(config, tmp_path, capsys):
    """Of four frames in two; and an image without a face."""
    rows = ["file,frame,left,top,right,bottom"]
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("real", "fake"):
            for name, frames in (("often", 4), ("twice", 2), ("never", 0)):
                folder = tmp_path / "boxed" / split / label / f"{name}_{split}_{label}"
                folder.mkdir(parents=True)
                for number in range(4):
                    cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
                path = folder.relative_to(tmp_path)
                rows += [f"{path},{number},8,8,40,40" for number in range(frames)]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    config = replace(config, data_dir=tmp_path / "boxed", faces="boxes", boxes=tmp_path / "boxes.csv")
    clips, _ = load_clips(config)
    assert [clip.path.name[:5] for clip in clips] == ["often"] * 4
    assert "left out: 8 of 12 clips; their face was found in fewer than 3 frames" in capsys.readouterr().out
    (tmp_path / "boxes.csv").write_text("\n".join([rows[0], f"{path},0,8,8,40,40"]))
    with pytest.raises(UserError, match="no clip has a face"):
        load_clips(config)


def test_patience_begins_with_the_encoder_and_augmentation_is_an_option(config, monkeypatch):
    clips, cache = load_clips(config)
    clips = [clip for clip in clips if clip.path.name in ("0.png", "1.png", "clip")]
    config = replace(config, epochs=5, frozen_epochs=3, patience=1, lr=1e-9)
    config = replace(config, freeze_batch_norm=True)  # nothing is learned: no better epoch
    augmented = []
    for augment in (True, False):
        run = replace(config, name=f"augment_{augment}", augment=augment)
        model, run = start_spotter(run)
        first = []
        model.register_forward_pre_hook(lambda _, inputs, seen=first: seen.append(inputs[0]))
        train_spotter(run, model, clips, cache)
        augmented.append(first[0])
        # Epochs 0 to 3: without `patience_from` it would end after epoch 1.
        assert load_checkpoint(run.models_dir / f"{run.name}_last.pth", VIDEO_KEYS)["epoch"] == 3
    assert not torch.equal(*augmented)
