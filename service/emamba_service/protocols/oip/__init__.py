"""The Open Inference Protocol, version 2, over REST."""

from emamba_service.protocols.oip.endpoint import Oip
from emamba_service.protocols.oip.routes import add_oip_routes

__all__ = ["Oip", "add_oip_routes"]
