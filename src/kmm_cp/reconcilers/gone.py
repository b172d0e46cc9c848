"""What a cache shows may be gone by the time it is written to."""

import logging

from kmm_common.logs import log
from kmm_cp.kube.errors import NotFoundError
from kmm_cp.runtime.controller import DONE, Reconcile, Result

logger = logging.getLogger(__name__)


def unless_gone(reconcile: Reconcile[str]) -> Reconcile[str]:
    """Return a reconcile for which an object that went meanwhile is no failure.

    The watch tells of its end, and that sets off whatever is to be done then.
    """

    async def guarded(key: str) -> Result:
        try:
            return await reconcile(key)
        except NotFoundError as error:
            log(logger, logging.INFO, "object went meanwhile", key=key, error=str(error))
            return DONE

    return guarded
