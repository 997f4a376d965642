"""Names and templates that papers measure with."""

# arXiv:2312.16145, sec. 4.1
PAPER = ("Snoopy", "Mickey", "Spongebob", "Pikachu", "Dog", "Legislator")
MEMORISED_TEMPLATES = ("{}", "a painting of {}", "{}, masterpiece", "the famous picture {}", "a print of {}")

# UnlearnCanvas, arXiv:2402.11846
THEMES = tuple(
    (  # noqa: SIM905
        "Abstractionism Artist_Sketch Blossom_Season Bricks Byzantine Cartoon Cold_Warm Color_Fantasy Comic_Etch "
        "Crayon Cubism Dadaism Dapple Defoliation Early_Autumn Expressionism Fauvism French Glowing_Sunset "
        "Gorgeous_Love Greenfield Impressionism Ink_Art Joy Liquid_Dreams Magic_Cube Meta_Physics Meteor_Shower Monet "
        "Mosaic Neon_Lines On_Fire Pastel Pencil_Drawing Picasso Pop_Art Red_Blue_Ink Rust Seed_Images Sketch "
        "Sponge_Dabbed Structuralism Superstring Surrealism Ukiyoe Van_Gogh Vibrant_Flow Warm_Love Warm_Smear "
        "Watercolor Winter"
    ).split()
)
THINGS = tuple(
    (  # noqa: SIM905
        "Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs Horses Human Jellyfish Rabbits "
        "Sandwiches Sea Statues Towers Trees Waterfalls"
    ).split()
)
CANVAS_SEEDS = (188, 288, 588, 688, 888)
CANVAS_TEMPLATE = "A {} image in {} style."


def clip_templates() -> list[str]:
    """Return the 80 prompt templates of CLIP's zero-shot evaluation (arXiv:2103.00020, sec. 3.1.4)."""
    both = ("a", "the")
    look = (
        "bad", "low resolution", "cropped", "bright", "dark", "close-up", "black and white", "pixelated",
        "jpeg corrupted", "blurry", "good",
    )  # fmt: skip
    trait = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
    medium = (
        "a sculpture", "a rendering", "graffiti", "a tattoo", "a drawing", "a painting", "a doodle", "a sketch",
        "a rendition", "art", "itap",
    )  # fmt: skip
    made = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")
    return [
        *(f"a {one} photo of {article} {{}}." for one in look for article in both),
        *(f"a photo of {article} {one} {{}}." for one in trait for article in both),
        *(f"a photo of {word} {{}}." for word in ("a", "the", "many", "my", "one")),
        *(f"{one} of {article} {{}}." for one in medium for article in both),
        "itap of my {}.",
        *(f"{article} {{}} in a video game." for article in both),
        *(f"{article} {one} {{}}." for one in made for article in both),
    ]
