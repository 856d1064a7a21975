"""A chat history becomes the beginning of a thread, and is read as a history again."""

from __future__ import annotations

from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolCall

from lc_history.agents.checkpoints.checkpointer import open_checkpointer
from lc_history.agents.offline import OfflineToolModel
from lc_history.agents.running.graph import resumable
from lc_history.agents.threads.adoption import adopt
from lc_history.errors import ConflictError
from lc_history.histories import ChatHistories
from lc_history.stores.postgres import PostgresStore
from tests.doors import BOTH, Door


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_a_history_goes_on_as_a_thread(postgres_url: str, door: Door) -> None:
    from lc_history.agents.threads import adoption

    schema = f"adopted_{uuid4().hex[:8]}"
    with (
        open_checkpointer(postgres_url, schema=schema) as saver,
        ChatHistories(PostgresStore.from_url(postgres_url, schema=schema)) as histories,
    ):
        saver.setup()
        agent = resumable(create_agent(OfflineToolModel(), [], checkpointer=saver))
        old = histories.session("old", user_id="ann")
        call = ToolCall(name="pay", args={}, id="c1", type="tool_call")
        old.add_messages([HumanMessage("pay"), AIMessage("", tool_calls=[call]), HumanMessage("hello?")])
        for _ in range(2):
            door.call(adoption, "adopt", old, agent, "new")
        config = {"configurable": {"thread_id": "new", "user_id": "ann"}}
        kept = agent.get_state(config)
        assert [message.type for message in kept.values["messages"]] == ["human", "ai", "tool", "human"]
        assert kept.next == ()
        assert histories.session("new", user_id="ann").messages == kept.values["messages"]
        agent.invoke({"messages": "more"}, config)
        assert len(histories.session("new", user_id="ann").messages) == 6
        adopt(histories.session("new", user_id="ann"), agent, "new")
        other = histories.session("other", user_id="ann")
        other.add_messages([HumanMessage("else")])
        with pytest.raises(ConflictError, match="of its own"):
            adopt(other, agent, "new")
