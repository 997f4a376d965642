"""Figures that papers report, to stand beside measured ones and never among them."""

from dataclasses import dataclass

PAPER = "arXiv:2312.16145"


@dataclass(frozen=True)
class Reported:
    """A published table: what it shows, where it stands, and its cells as printed."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


REPORTED: dict[str, Reported] = {
    "objects": Reported(
        "Erase Snoopy from Stable Diffusion 1.4 (CS and CER of Snoopy, FID of the others, FIDg on COCO-30k)",
        f"{PAPER}, tab. 1",
        ("method", "CS", "CER", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator", "FIDg"),
        (
            ("SD1.4", "74.43", "0.62", "", "", "", "", "", "13.24"),
            ("ESD", "44.50", "77.62", "129.07", "113.90", "72.18", "45.94", "55.18", "13.68"),
            ("Concept Ablation", "59.81", "5.50", "110.85", "79.49", "71.22", "96.36", "55.74", "15.42"),
            ("Selective Amnesia", "64.59", "0.25", "53.64", "57.65", "42.95", "75.72", "47.42", "16.84"),
            ("SPM", "55.48", "20.12", "28.39", "30.75", "18.61", "10.11", "7.40", "13.24"),
        ),
    ),
    "multi": Reported(
        "Erase Snoopy, Mickey and Spongebob together (CS/CER of each, FID of the others, FIDg on COCO-30k)",
        f"{PAPER}, tab. 1",
        ("method", "Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator", "FIDg"),
        (("SPM", "53.72/25.75", "50.50/44.50", "51.30/41.87", "33.19", "14.69", "20.66", "13.26"),),
    ),
    "ablation": Reported(
        "Erase Mickey with and without anchoring and transport (CS/CER of Mickey, FID of Snoopy)",
        f"{PAPER}, ablation study",
        ("anchoring", "transport", "CS", "CER", "FID Snoopy"),
        (
            ("no", "no", "45.68", "78.88", "103.5"),
            ("yes", "no", "53.67", "35.12", "50.3"),
            ("no", "yes", "54.06", "41.12", "42.3"),
            ("yes", "yes", "63.04", "13.50", "31.3"),
        ),
    ),
    "eta": Reported(
        "CS of the target by eta",
        f"{PAPER}, ablation study",
        ("eta", "CS"),
        (("0.5", "57.5"), ("1", "55.5"), ("3", "52.9"), ("10", "50.6")),
    ),
    "explicit": Reported(
        "Exposed parts found on I2P, against SD1.4",
        f"{PAPER}, explicit content",
        ("method", "change"),
        (
            ("SD2.0", "-27.5 %"),
            ("SLD", "-77.1 %"),
            ("ESD", "-39.0 %"),
            ("Concept Ablation", "-65.0 %"),
            ("Selective Amnesia", "-69.5 %"),
            ("SPM", "-85.3 %"),
        ),
    ),
    "memorised": Reported(
        "SSCD similarity to the original after erasing",
        f"{PAPER}, memorised images",
        ("picture", "erased", "others keep"),
        (("The Great Wave", ".04", ".75 to .99"), ("Starry Night", ".09", ".75 to .99")),
    ),
    "coco": Reported(
        "FIDg on COCO-30k after erasing Snoopy",
        f"{PAPER}, tab. 1",
        ("method", "FIDg"),
        (
            ("SD1.4", "13.24"),
            ("ESD", "13.68"),
            ("Concept Ablation", "15.42"),
            ("Selective Amnesia", "16.84"),
            ("SPM", "13.24"),
        ),
    ),
    "unlearncanvas": Reported(
        "Unlearning, in-domain and cross-domain retain accuracy of SPM, in percent",
        "arXiv:2402.11846",
        ("target", "UA", "IRA", "CRA"),
        (("style", "60.9", "92.4", "84.3"), ("object", "71.3", "90.8", "81.7")),
    ),
}
