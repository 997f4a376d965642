"""Erasures carried to other models without training, beside erasures that were made on those models."""

from semiperm.erasure import Erasure
from semiperm.errors import ProtocolError
from semiperm.evaluation.context import Context
from semiperm.evaluation.protocol import ArmPlan, Protocol
from semiperm.evaluation.protocols.multi import rows
from semiperm.evaluation.report import CARRIED, NATIVE
from semiperm.methods.method import settings_on
from semiperm.models.model import DiffusionModel


def arms(context: Context) -> list[ArmPlan]:
    """Return the erasures on their own model, then on every other model carried and native.

    A native erasure is made on the other model with the method and settings of the carried one. A model of another
    architecture has the native arm only, because an erasure cannot be carried there. Where no erasures were given,
    those of the targets are made.

    Raises:
        ProtocolError: there are no further models, or no erasures and no targets.
        SettingsError: an erasure's card does not say how it was made.
    """
    if not context.models:
        raise ProtocolError("this protocol carries erasures to other models: name some with --on")
    own = context.erasures or tuple(
        context.make(concept, context.method, context.task.settings) for concept in context.targets
    )
    if not own:
        raise ProtocolError("this protocol carries erasures to other models: give some, or name a concept to erase")
    found = [ArmPlan(f"{NATIVE}{context.model.name}", own, context.gate)]
    for model in context.models:
        if model.fingerprint() == context.model.fingerprint():
            found.append(ArmPlan(f"{CARRIED}{model.name}", own, context.gate, model))
        native = tuple(_native(context, erasure, model) for erasure in own)
        found.append(ArmPlan(f"{NATIVE}{model.name}", native, context.gate, model))
    return found


def _native(context: Context, erasure: Erasure, model: DiffusionModel) -> Erasure:
    card = erasure.card
    if len(card.concepts) > 1:
        raise ProtocolError(f"{card.title} were erased in one erasure; this protocol carries erasures of one concept")
    return context.make(card.concept, card.method, settings_on(card), on=model)


PROTOCOL = Protocol(
    name="transfer",
    version=2,
    shows="an erasure that is carried to another model does the same there as one that was made there",
    cost="terrarium: about 8 minutes a model on 2 cores, 4 of them for its own erasure; open: as `objects` and a "
    "training, for each model",
    metrics=("found", "clip", "clip errors", "frechet", "kernel", "alteration"),
    rows=rows,
    arms=arms,
)
