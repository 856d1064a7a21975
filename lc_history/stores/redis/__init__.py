"""A store on Redis: `store` has the verbs, `lua/` does them on the server, `layout` names the keys."""

from lc_history.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
