"""How people ask. Per intent: phrasings to train on, and others, never trained on, to be asked live and in evaluation.

`(a|b|)` chooses one; `{slot}` takes an entity. Greetings, thanks and typos are put around them (`dress`).
"""

from __future__ import annotations

import random
import re
from functools import cache

from lab.world.entities import Split

_GROUP = re.compile(r"\(([^()]*)\)")

# intent: (to train on, held out)
PHRASINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "node_status": (
        (
            "(what is|what's|tell me|show me|give me|check) the (status|state|health|condition) of "
            "(node|machine|server|host|) {node}",
            "is (node|machine|host|server|) {node} (up|healthy|ok|fine|alive|down|working)",
            "how is (node|machine|host|) {node} (doing|today|right now|)",
            "how many gpus are free on {node}",
            "(can you|could you|please) (check|look at) (node|machine|server|) {node}",
            "{node} status",
            "does (node|machine|) {node} (work|run|respond)",
            "any (free gpus|gpus free|capacity) on (node|) {node}",
            "i (cannot|can't) reach {node}, what is its state",
            "status of the (node|machine|host) {node}",
            "(node|host) {node}: (up or down|healthy or not|what state)",
            "in (what|which) (state|condition) is (node|machine|host|) {node}",
            "(what|which) (state|condition|health) does (node|machine|server|) {node} (have|report)",
            "(let me know|i want to know|i wonder) (how|whether) (node|machine|) {node} (works|runs|feels|is)",
            "(does|has) (host|node|machine|) {node} (have|got|) (any|) (free gpus|idle gpus|gpus left)",
            "is there (a free gpu|any gpu) (left|) on (host|node|machine|) {node}",
            "(show me|tell me about|report) (node|machine|host) {node}",
            "(what|which) (shape|condition) is (the|) (node|machine|server|host|) {node} in",
            "(give me|report|i need) the (state|health|status) of (the|) (node|machine|server|) {node}",
            "(any|is there) (news|word) (on|from|about) (the|) (node|machine|host) {node}",
            "(node|machine|server) {node}, (how is it|what is its state|is it well|what about it)",
            "what (is going on|happens|is up) (with|on) (the|) (node|machine|host|) {node}",
            "(do you see|do we have|are there) (idle|unused|spare) gpus on (machine|server|) {node}",
        ),
        (
            "(please|) tell me how (node|machine|) {node} is doing",
            "what state is the (machine|node) {node} in",
            "show the health of {node}",
            "are there free gpus on (host|node) {node}",
        ),
    ),
    "job_status": (
        (
            "(what is|what's|tell me|show me|check) the (status|state|progress) of (job|run|task|my "
            "job|training) {job}",
            "is (job|my job|run|task) {job} (done|finished|running|still running|queued|stuck)",
            "how is (job|my job|run|training|) {job} (doing|going|)",
            "where does (job|run|) {job} run",
            "did (job|my run|task|) {job} (finish|fail|crash|start)",
            "(job|run|task) {job} status",
            "which node (runs|has|is running) (job|run|) {job}",
            "(can you|could you|please) (check|look at) (job|run|) {job}",
            "what happened to (job|my job|run) {job}",
            "status of (job|run|task) {job}",
            "(what|which) (machine|host|server|node) (runs|has|is running|executes) (job|run|task|) {job}",
            "on (what|which) (node|host|server) (is|was) (job|my job|run|) {job}",
            "where (is|was) (job|my job|run|task|) {job} (running|started|scheduled|)",
            "(tell me|show me|find) (where|on which host|on what machine) (job|run|task|) {job} is",
            "has (job|my job|run|task|) {job} (failed|crashed|started|ended|stopped)",
            "in (what|which) state is (job|my job|run|task) {job}",
            "(what|which) state does (job|run|task|) {job} have",
            "(let me know|i want to know) (how|whether) (job|my job|run|) {job} (runs|is running|is doing)",
            "(what|which) (shape|condition) is (the|my|) (job|run|task|) {job} in",
            "(give me|report|i need) the (state|progress|status) of (the|my|) (job|run|task|) {job}",
            "(any|is there) (news|word) (on|from|about) (the|my|) (job|run|task) {job}",
            "(job|run|task) {job}, (how is it|what is its state|is it done|where is it)",
            "what (is going on|happens|is up) (with|in) (the|my|) (job|run|task|) {job}",
            "(what|which) (node|host|server) (does|did) (job|my job|run|task|) {job} (use|take|run on)",
        ),
        (
            "(please|) tell me how (job|run) {job} is going",
            "what state is (my job|job|task) {job} in",
            "on which machine does job {job} run",
            "has (job|run) {job} finished",
        ),
    ),
    "quote": (
        (
            "(what does|how much does|how much is|what is the price of|price for) {hours} hours of (a|an|one|) "
            "{gpu} (cost|)",
            "(quote|price|offer) for {hours} hours (of|on) {gpu}",
            "(how much|what) would {hours} hours (on|of) (a|an|) {gpu} cost",
            "(i need|i want|we need) (a|an|one) {gpu} for {hours} hours, (what does it cost|how much is "
            "that|what is the price)",
            "{gpu} for {hours} hours, (price|cost|how much)",
            "what do i pay for {hours} hours (of|on) {gpu}",
            "(give me|make me|send me) a (quote|price) for {hours} h of {gpu}",
            "rent (a|an|) {gpu} for {hours} hours: how much",
            "cost of {hours} {gpu} hours",
            "(what is|tell me) the (cost|price) of (a|an|) {gpu} for {hours} hours",
            "(we|i|you) (pay|get charged) how much for {hours} hours (of|on) {gpu}",
            "(tell me|let me know) (how much|what) {hours} hours (of|on) (a|an|) {gpu} (costs|cost|is)",
            "(quote|price) me {hours} hours (of|on) {gpu}",
            "(we|they) (need|want|plan) {hours} hours (of|on) {gpu}, (how much|what does that cost|your price)",
            "(how much|what) (do|would) (we|you|they) (pay|charge|ask) for {hours} hours (of|on) (a|an|one|) {gpu}",
            "(i|we) (would like|plan|think of) {hours} hours (of|on) (a|an|) {gpu}, (at what cost|for how much)",
            "(can you|could you|please) (quote|price) (me|) (a|an|one|) {gpu} for {hours} hours",
            "(say|work out|calculate) (what|how much) (a|an|) {gpu} for {hours} hours (costs|is)",
        ),
        (
            "how much do i pay for a {gpu} for {hours} hours",
            "(we want|i want) {hours} hours of {gpu}, what is the cost",
            "please quote {hours} hours on (a|an|) {gpu}",
            "tell me what {hours} hours of {gpu} would cost",
        ),
    ),
    "invoice": (
        (
            "(what is|what's|tell me|show me) the (amount|total|sum) of invoice {invoice}",
            "(show|find|look up|get|open) (me|) invoice {invoice}",
            "(is|was) invoice {invoice} (paid|open|overdue|settled)",
            "how much (is|was) invoice {invoice}",
            "(can you|could you|please) (check|look up) (invoice|bill) {invoice}",
            "what do we owe on (invoice|bill) {invoice}",
            "did we pay (invoice|bill) {invoice}",
            "invoice {invoice} status",
            "(bill|invoice) {invoice}: how much",
            "i have a question about invoice {invoice}, what is its (total|amount)",
            "(tell me|let me know) (how much|what) (invoice|bill) {invoice} (is|came to|says)",
            "(has|is) (bill|invoice) {invoice} (settled|cleared|still open) (yet|)",
            "(see|read|look into) (invoice|bill) {invoice}",
            "(what|which) (amount|sum|total) is on (the|) (bill|invoice) {invoice}",
            "(give me|report|i need) the (amount|sum|total|state) of (the|) (bill|invoice) {invoice}",
            "(what|how much) does (bill|invoice) {invoice} (say|come to|ask for)",
            "(bill|invoice) {invoice}, (how much|is it paid|what about it)",
            "(have we|has anybody|did somebody) (paid|settled|pay|settle) (bill|invoice) {invoice} (yet|already|)",
            "(have|take) a look (at|into) (the|) (bill|invoice) {invoice}",
            "(how high|how large) (is|was) (the|our|) (bill|invoice) {invoice}",
        ),
        (
            "please tell me how much bill {invoice} was",
            "what is the total on invoice {invoice}",
            "has invoice {invoice} been paid",
            "look at invoice {invoice} for me",
        ),
    ),
    "convert": (
        (
            "(what is|how much is|what's) {amount} (usd|dollars|US dollars) in {currency}",
            "(convert|exchange) {amount} (usd|dollars) (to|into|in) {currency}",
            "{amount} (usd|dollars) in {currency}",
            "how many {currency} (are|is|do i get for) {amount} (usd|dollars)",
            "(tell me|show me) {amount} (usd|dollars) in {currency}",
            "i have {amount} (usd|dollars), how much is that in {currency}",
            "(can you|could you|please) (convert|exchange) {amount} (usd|dollars) (to|into) {currency}",
            "what do i get in {currency} for {amount} (usd|dollars)",
            "let me know (what|how much) {amount} (usd|dollars) (is|are|makes) in {currency}",
            "how much {currency} (is|are|makes) {amount} (usd|dollars)",
            "(what|how much) (would|will) {amount} (usd|dollars) (make|give) in {currency}",
            "(turn|change) {amount} (usd|dollars) into {currency}",
            "(what|how much) do (i|we) (get|receive) (for|from) {amount} (usd|dollars) in {currency}",
            "(calculate|work out|give me) {amount} (usd|dollars) (in|as) {currency}",
            "{amount} (usd|dollars), (what|how much) (is|are) (that|those) in {currency}",
            "(please|can you|) (make|swap) {amount} (usd|dollars) (to|into) {currency}",
        ),
        (
            "please tell me how much {amount} dollars is in {currency}",
            "change {amount} usd to {currency} for me",
            "how much {currency} do i get for {amount} usd",
            "what would {amount} dollars be in {currency}",
        ),
    ),
    "quota": (
        (
            "(what is|what's|tell me|show me|check) the (quota|limit|gpu quota|gpu limit) of (team|) {team} in "
            "{region}",
            "how many gpus (may|can) (team|) {team} use in {region}",
            "(quota|limit) for (team|) {team} in {region}",
            "(what|how much) quota does (team|) {team} have in {region}",
            "how many gpus does (team|) {team} (have|get) in {region}",
            "(we are|i am in) team {team}, what is our quota in {region}",
            "in {region}, how many gpus (can|may) {team} use",
            "gpu (quota|limit) (of|for) {team} in {region}",
            "(show|list|check) the (gpu quota|gpu limit|quota|limit) (team|) {team} has in {region}",
            "how (big|high) is the (limit|quota|gpu quota) (of|for) (team|) {team} in {region}",
            "(what|which) (limit|gpu quota) (does|has) (team|) {team} (have|got|) in {region}",
            "(let me know|check|say) how many gpus (team|) {team} (may use|can use|gets) in {region}",
            "(give me|report|i need) the (quota|limit|gpu quota) of (team|) {team} (for|in) {region}",
            "(team|) {team} in {region}: (what quota|how many gpus|which limit)",
            "(what|how much) (is|may) (team|) {team} (allowed|use) in {region}",
            "(see|find|look up) (what|which|how much) (quota|limit) (team|) {team} (has|gets|got) in {region}",
            "how (many|much) gpus (are|is) (left to|allowed to|for) (team|) {team} in {region}",
            "(is there|do you see) a (gpu limit|quota|limit) (for|of) (team|) {team} in {region}",
        ),
        (
            "please check how many gpus team {team} has in {region}",
            "what gpu limit does {team} have in {region}",
            "show the quota that team {team} has in {region}",
            "how large is the quota of {team} in {region}",
        ),
    ),
    "ticket": (
        (
            "(open|create|file|raise) a {severity} (ticket|severity ticket|priority ticket) for (node|) {node}: "
            "{problem}",
            "(please|can you|could you) (open|create|file) a (ticket|support ticket) for (node|) {node}, "
            "severity {severity}: {problem}",
            "{severity} ticket for (node|machine|) {node}: {problem}",
            "(open|file) a ticket: (node|) {node}, {severity}, {problem}",
            "(report|tell support) that (node|) {node} has a problem, severity {severity}: {problem}",
            "(i need|we need) a {severity} ticket for {node}: {problem}",
            "new ticket for (node|) {node} with {severity} severity: {problem}",
            "ticket (please|): {node}, {severity} severity, {problem}",
            "(open|raise) (a|one) new ticket (for|on|about) (machine|node|) {node}, {severity}: {problem}",
            "(can you|could you) (raise|file|create) a {severity} (priority|) ticket (for|on) {node}: {problem}",
            "(i|we) want a {severity} ticket (on|about) (node|machine|) {node}: {problem}",
            "(make|write|log) a {severity} (priority|) ticket (on|for|about) (the|) (node|machine|) {node}: {problem}",
            "(create|make|open) (one|a ticket) for (machine|node|) {node}, (it is|with|as) {severity}: {problem}",
            "(could you|please) (raise|open|log) a ticket (of|with) {severity} severity (on|for) {node}: {problem}",
            "(i would like|we need|let us open) a ticket (about|on) {node}, {severity} severity: {problem}",
        ),
        (
            "please raise a {severity} ticket for machine {node}: {problem}",
            "create a new ticket for node {node}, {severity}: {problem}",
            "can you file a {severity} severity ticket for {node}: {problem}",
            "i want a ticket for {node}, severity {severity}: {problem}",
        ),
    ),
    "delivery": (
        (
            "when (does|will) (order|my order|our order|) {order} (arrive|come|be here|be delivered)",
            "(where is|what about|any news on) (order|my order|our order|) {order}",
            "(delivery|arrival) (date|day|time) (of|for) (order|) {order}",
            "(what is|what's|tell me|show me) the (delivery date|eta|arrival date) (of|for) (order|) {order}",
            "eta (of|for) (order|) {order}",
            "(can you|could you|please) (check|track) (order|delivery|) {order}",
            "is (order|my order) {order} (on its way|late|coming soon)",
            "track (order|) {order}",
            "how long (until|before) (order|) {order} (arrives|comes)",
            "(what|which) (day|date) (does|will) (order|my order|) {order} (arrive|be delivered|get here)",
            "(tell me|let me know) when (order|our order|my order) {order} (arrives|comes|is due)",
            "when (is|was) (order|our order|my order|) {order} (due|here|expected)",
            "(check|look up) (the|) (delivery|arrival) of (order|) {order}",
            "(give me|report|i need) the (eta|arrival|delivery date) of (the|our|) (order|) {order}",
            "(any|is there) (news|word) (on|from|about) (the|our|) (order|delivery) {order}",
            "(order|delivery) {order}, (when|what day|where is it|is it late)",
            "(see|find|look up) (when|what day) (the|my|our|) order {order} (arrives|comes|is due|is delivered)",
            "(what|which) (time|day|date) (is|was) (the|my|our|) order {order} (due|expected|promised)",
            "by when (is|will) (the|our|my|) order {order} (be here|arrive|come|due)",
        ),
        (
            "please tell me when order {order} will be here",
            "what day does our order {order} come",
            "check the eta of order {order}",
            "when is order {order} delivered",
        ),
    ),
    "diagnostics": (
        (
            "(run|start|do) (the|a|) (diagnostics|self test|tests|diagnosis) on (node|machine|) {node}",
            "(please|can you|could you) (run|start) (diagnostics|the self test|a self test) (on|for) (node|) {node}",
            "(diagnose|test) (node|machine|) {node}",
            "(what is wrong|what's broken) (with|on) (node|machine|) {node}, (run a test|run diagnostics|test it)",
            "self test (of|on|for) (node|) {node}",
            "does {node} pass (diagnostics|the self test|its self test)",
            "which (check|test) fails on (node|) {node}",
            "(node|) {node} diagnostics",
            "(test|check) (node|machine|) {node} and (say|show me|report) what (fails|is broken|is wrong)",
            "(start|run|do) (a|one|) (full|) (self test|test|diagnosis) (of|for|with) (machine|node|) {node}",
            "(can you|could you|will you) (test|run a test on) (node|machine|) {node}",
            "(diagnose|examine) (node|machine|host|) {node} (now|for me|)",
            "(make|begin|launch) (the|a|) (diagnostics|self test) (on|of|for) (the|) (node|machine|server|) {node}",
            "(i|we) (need|want) (a|the|) (self test|diagnosis|test) (of|for) (the|) (node|machine|server|) {node}",
            "(please|could you|will you) (examine|diagnose) (the|) (machine|server|host) {node}",
            "(find out|see) (what|which part) (fails|is broken) (on|in) (the|) (node|machine|server|) {node}",
            "(node|machine|server) {node}, (test it|diagnose it|run the self test)",
        ),
        (
            "please test node {node} and tell me what fails",
            "start the diagnostics for machine {node}",
            "i would like a self test on {node}",
            "can you diagnose node {node}",
        ),
    ),
    "search": (
        (
            "(what is|what's|tell me) the {topic}",
            "(do you know|can you tell me|could you tell me) the {topic}",
            "(look up|search|find) the {topic} (in the docs|in the documents|in the handbook|)",
            "(what do the docs say|what does the handbook say) about the {topic}",
            "i need (to know|) the {topic}",
            "(where can i read|is there something) about the {topic}",
            "{topic}, please",
            "(what|which) {topic} (do we have|applies|is it)",
            "(let me know|tell us|say) (what|) the {topic} (is|)",
            "(find|get|show) (me|us) the {topic}",
            "what (does the documentation|do the papers) (say|tell) (on|about) the {topic}",
            "i (want|would like) to (learn|read about|ask) the {topic}",
            "(would you|will you) (look up|find|search) the {topic}",
            "(what|anything) (is written|is said|do we know) about the {topic}",
            "(please|could you|) (check|read) (what|) the {topic} (is|)",
            "(can you|could you) (search|look) for the {topic}",
        ),
        (
            "would you tell me the {topic}",
            "what do the documents say about the {topic}",
            "can you find the {topic} for me",
            "i want to know the {topic}",
        ),
    ),
    "job_node_status": (
        (
            "(what is|what's|tell me) the (state|status|health) of the node (that runs|of|under|running) "
            "(job|run|) {job}",
            "is the (node|machine|host) (of|that runs|running) (job|run|) {job} (healthy|up|ok|fine|down)",
            "how is the (node|machine) (of|behind|under) (job|run|) {job}",
            "(check|look at) the (node|machine) (of|that runs) (job|run|) {job}",
            "(job|run) {job}: is its (node|machine) (ok|healthy|up)",
            "how many gpus are free on the node (of|that runs) (job|) {job}",
            "in (what|which) (state|condition) is the (node|machine|host) (of|that runs|under) (job|run|) {job}",
            "(let me know|tell me) (how|whether) the (node|machine) (of|that runs) (job|run|) {job} (works|runs|is)",
            "(what|which) state does the (node|machine|host) (of|under|running) (job|run|) {job} have",
            "(what|which) (shape|condition) is the (node|machine|host) (of|behind|that runs) (job|run|) {job} in",
            "(give me|report) the (state|health|status) of the (node|machine|host) (of|that runs) (job|run|) {job}",
        ),
        (
            "tell me how the machine of job {job} is doing",
            "what state is the node that runs {job} in",
            "i want you to check the node of run {job}",
        ),
    ),
    "job_ticket": (
        (
            "(open|create|file) a {severity} ticket for the (node|machine) (of|that runs) (job|run|) {job}: {problem}",
            "(job|run) {job} has trouble, (open|file) a {severity} ticket for its (node|machine): {problem}",
            "{severity} ticket for the (node|machine) of (job|run) {job}: {problem}",
            "(please|can you) (open|file) a ticket for the (node|machine) under (job|) {job}, severity "
            "{severity}: {problem}",
            "(we|i) (need|want) a {severity} ticket (for|on) the (node|host) (of|that runs) (job|) {job}: {problem}",
            "(raise|report|open) a {severity} ticket (about|on) the (machine|host) of (job|run|) {job}: {problem}",
            "(make|log) a {severity} ticket (for|about) the (node|machine) (of|under) (job|run|) {job}: {problem}",
        ),
        (
            "please raise a {severity} ticket for the machine of job {job}: {problem}",
            "i want a {severity} ticket for the machine of run {job}: {problem}",
        ),
    ),
    "job_diagnostics": (
        (
            "(run|start) (diagnostics|a self test|the self test) on the (node|machine) (of|that runs) (job|run|) {job}",
            "(test|diagnose) the (node|machine) (of|under|that runs) (job|run|) {job}",
            "(which check|what) fails on the (node|machine) (of|that runs) (job|run|) {job}",
            "(job|run) {job} is slow, (test|diagnose) its (node|machine)",
            "(do|start|make) a self test (of|for|with) the (node|machine|host) (of|behind|under) (job|run|) {job}",
            "(examine|check what is wrong with) the (node|machine|host) (of|that runs|under) (job|run|) {job}",
            "(begin|launch) (diagnostics|the self test) (of|for|on) the (node|machine) (of|that runs) (job|run|) {job}",
        ),
        (
            "let us diagnose the machine that job {job} uses",
            "please start a self test of the machine that {job} runs on",
        ),
    ),
    "quote_convert": (
        (
            "(what does|how much does|how much is) {hours} hours of (a|an|) {gpu} (cost|) in {currency}",
            "(quote|price) for {hours} hours of {gpu} in {currency}",
            "(how much|what) would {hours} hours (on|of) (a|an|) {gpu} cost in {currency}",
            "{gpu} for {hours} hours in {currency}, (price|how much)",
            "(i need|we need) (a|an) {gpu} for {hours} hours, what is the price in {currency}",
            "cost in {currency} of {hours} hours of {gpu}",
            "(tell me|let me know) (what|how much) {hours} hours (of|on) (a|an|) {gpu} (costs|is) in {currency}",
            "what do (i|we) pay in {currency} for {hours} hours (of|on) (a|an|) {gpu}",
            "(how much|what) (do|would) (you|they) (charge|ask) in {currency} for {hours} hours (of|on) (a|an|) {gpu}",
            "(can you|could you) (quote|price) (me|) {hours} hours (of|on) {gpu} in {currency}",
        ),
        (
            "how much do i pay in {currency} for a {gpu} for {hours} hours",
            "tell me what {hours} hours of {gpu} would cost in {currency}",
            "please quote {hours} hours on {gpu} in {currency}",
        ),
    ),
    "invoice_convert": (
        (
            "(what is|what's|tell me) the (amount|total) of invoice {invoice} in {currency}",
            "how much (is|was) invoice {invoice} in {currency}",
            "(show|get|look up) invoice {invoice} in {currency}",
            "what do we owe on (invoice|bill) {invoice} in {currency}",
            "(bill|invoice) {invoice} in {currency}: how much",
            "(tell me|let me know) (what|how much) (bill|invoice) {invoice} (is|came to) in {currency}",
            "(what|which) (total|amount|sum) is on (bill|invoice) {invoice} in {currency}",
            "(give me|report) the (amount|sum|total) of (bill|invoice) {invoice} in {currency}",
            "(what|how much) does (bill|invoice) {invoice} (say|come to) in {currency}",
        ),
        (
            "please tell me how much bill {invoice} was in {currency}",
            "what is the total on invoice {invoice} in {currency}",
        ),
    ),
    "then_convert": (
        (
            "and in {currency}",
            "(what is|how much is) that in {currency}",
            "in {currency} please",
            "(convert|change) that to {currency}",
            "and (how much|what) is it in {currency}",
            "{currency}?",
            "can you give me that in {currency}",
            "(how much|what) (is|was|makes) (it|this|that) in {currency}",
            "(what|how) about (it|that|) in {currency}",
            "(please|can you) (convert|change|show) (it|this|that) (into|in) {currency}",
            "(make|give me) (it|that) in {currency}",
            "(what|how much) (would|will) (it|this) (be|make) in {currency}",
        ),
        (
            "how much would that be in {currency}",
            "and what about {currency}",
            "please convert it to {currency}",
        ),
    ),
    "then_node": (
        (
            "and {node}",
            "(what|how) about (node|) {node}",
            "and (node|machine|) {node}",
            "same for (node|) {node}",
            "now (check|) {node}",
            "and how is {node}",
            "also {node} please",
            "(and|then) (look at|check) (node|machine|) {node} (too|as well|)",
            "the same question (for|about) (node|machine|) {node}",
            "(what|how) is (node|machine|) {node} then",
            "(and|now) (the|) (node|machine|server) {node} (please|then|)",
            "(do|repeat) (that|the same|it) for (node|machine|) {node}",
            "(look|check) (also|next) (at|) (node|machine|) {node}",
        ),
        ("and what about the node {node}", "please check {node} too", "the same for {node} please"),
    ),
    "then_hours": (
        (
            "and for {hours} hours",
            "(what|how) about {hours} hours",
            "and {hours} hours",
            "same for {hours} hours",
            "make it {hours} hours",
            "what if i need {hours} hours",
            "(what|how much) (is|are|for) {hours} hours then",
            "(and|) (quote|price) {hours} hours (as well|instead|)",
            "(what|how much) would it be for {hours} hours",
            "(do|repeat) (that|it) (for|with) {hours} hours",
            "(and|now) (what|how much) (for|is it for) {hours} hours",
        ),
        ("and what would {hours} hours cost", "please quote {hours} hours too"),
    ),
    "hello": (
        (
            "(hi|hello|hey|good morning|good evening) (there|)",
            "(hi|hello|hey), (are you there|anybody there)",
            "good (day|afternoon)",
            "hello (help desk|desk|assistant)",
            "(morning|evening|hey you)",
            "(greetings|welcome|howdy|hiya) (everyone|to you|all|)",
            "(have a|a) (nice|lovely|good|great) (day|evening|afternoon) (everyone|to all|)",
            "(hello|hi) (again|to the help desk|dear help desk)",
        ),
        ("greetings, help desk", "a very good morning", "good day to you"),
    ),
    "thanks": (
        (
            "(thanks|thank you|thx) (a lot|very much|so much|)",
            "(great|perfect|ok|cool), (thanks|thank you|that is all)",
            "that (helps|helped), thanks",
            "(bye|goodbye|see you)",
            "no, that is all (thanks|)",
            "(many|lots of|a thousand) thanks (for that|for your help|)",
            "(thanks|thank you) for (that|your help|everything), (goodbye|see you|have a nice day)",
            "(that|this) was (helpful|useful|all|very kind)",
            "(thanks|thank you), (goodbye|see you|until next time)",
        ),
        ("ok, thanks a lot", "great, that helped", "thank you, bye"),
    ),
    "who": (
        (
            "who are you",
            "what are you",
            "what can you do (for me|)",
            "(how|what) can you help (me|) with",
            "what (do you know|can i ask you)",
            "are you a (bot|robot|human|person)",
            "what is this",
            "introduce yourself",
            "(say|explain|let me know) (who|what) you are",
            "(what|which) (questions|things) (can|may) i ask (you|)",
            "(is this|am i talking to) a (machine|robot|human|real person)",
            "what (are you|is this help desk) (good for|made for|able to do)",
        ),
        ("tell me who you are", "what can i ask you here", "are you a person or a robot"),
    ),
    "out_of_scope": (
        (
            "(write|tell me) (a|me a) (poem|joke|story|song) about {thing}",
            "what is the capital of {place}",
            "how do i (cook|bake|make) {food}",
            "who (won|wins) the (game|match|cup|election) in {place}",
            "what is the weather (in|like in) {place} (today|tomorrow|)",
            "(recommend|suggest) (a|me a) (film|book|hotel|restaurant) (in|about) {place}",
            "translate {thing} (to|into) (french|latin|german)",
            "(how old|how tall|how rich) is the (king|president|mayor) of {place}",
            "(book|buy) (a|me a) (flight|train|ticket) to {place}",
            "what do you think (about|of) {thing}",
            "(should i|can i) (buy|sell) (stocks|gold|a house)",
            "(what is|explain) the meaning of {thing}",
            "give me a recipe for {food}",
            "(sing|play) (a|me a) song about {thing}",
            "who invented {thing}",
            "(can you|could you|will you) (tell|write|draw) (me|us|) (a joke|something|a story) (about|on) {thing}",
            "(i want|i would like|we need) (a poem|a joke|a film|a story|a speech) about {thing}",
            "(i want|i need|we would like) (a way|some help) to (cook|bake|prepare) {food}",
            "what do (people|you) (say|think|like) about {thing}",
            "do you (know|like|understand) (anything about|) {thing}",
            "(can you|could you|please) (find|suggest|book) a (museum|room|flight|beach) in {place}",
            "(tell|show) me (something|a story|the news) about {place}",
            "is it (cold|warm|raining|sunny) in {place} (now|today|)",
            "how (do i get|far is it) to {place}",
            "where can i (buy|eat|find) {food}",
        ),
        (
            "could you compose a song about {thing}",
            "how is the weather in {place}",
            "can you recommend a hotel in {place}",
            "i want a recipe for {food}",
            "what do you know about {thing}",
            "tell me a joke about {place}",
        ),
    ),
}

# Fillers of the out-of-scope questions: (to train on, held out)
FILLERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "thing": (
        (
            "love",
            "cats",
            "the moon",
            "football",
            "happiness",
            "war",
            "dogs",
            "the sea",
            "music",
            "winter",
            "money",
            "art",
            "coffee",
            "trees",
            "the wheel",
            "dreams",
            "horses",
            "spring",
            "time",
            "a rainbow",
            "ghosts",
            "tea",
        ),
        ("friendship", "birds", "the sun", "chess", "summer", "paper", "wine", "a dragon"),
    ),
    "place": (
        (
            "France",
            "Peru",
            "Japan",
            "Rome",
            "Texas",
            "Egypt",
            "Oslo",
            "Brazil",
            "Kenya",
            "London",
            "Spain",
            "Canada",
            "Athens",
            "China",
            "Cuba",
        ),
        ("Italy", "Madrid", "Norway", "Chile", "Vienna", "India"),
    ),
    "food": (
        (
            "pasta",
            "bread",
            "soup",
            "an apple pie",
            "rice",
            "pancakes",
            "curry",
            "cheese",
            "a salad",
            "fish",
            "noodles",
            "jam",
        ),
        ("pizza", "a cake", "dumplings", "an omelette"),
    ),
}

BEFORE = (
    "hi, ",
    "hello, ",
    "hey, ",
    "good morning, ",
    "please, ",
    "quick question: ",
    "sorry to bother you, ",
    "hello there, ",
    "hi team, ",
)
AFTER = (
    " please",
    ", thanks",
    " asap",
    ", thank you",
    " now",
    ", it is urgent",
    " for me",
    ", please",
)


def phrasings(intent: str, split: Split) -> tuple[str, ...]:
    """The phrasings of an intent, unexpanded."""
    return PHRASINGS[intent][split == "held_out"]


def fillers(slot: str, split: Split) -> tuple[str, ...]:
    """What an out-of-scope question may be about."""
    return FILLERS[slot][split == "held_out"]


def say(intent: str, rng: random.Random, split: Split, **slots: str) -> str:
    """One way to ask, with its alternatives chosen and its slots filled, dressed as people write."""
    pattern = rng.choice(phrasings(intent, split))
    while match := _GROUP.search(pattern):
        pattern = (
            pattern[: match.start()]
            + rng.choice(match.group(1).split("|"))
            + pattern[match.end() :]
        )
    return dress(" ".join(pattern.replace(" ,", ",").split()), rng, slots)


def expansions(pattern: str) -> set[str]:
    """Every text that a pattern can become, slots unfilled; what tests compare the splits by."""
    return set(_expand(pattern))


@cache
def _expand(pattern: str) -> tuple[str, ...]:
    match = _GROUP.search(pattern)
    if not match:
        return (" ".join(pattern.replace(" ,", ",").split()),)
    found: list[str] = []
    for option in match.group(1).split("|"):
        found += _expand(pattern[: match.start()] + option + pattern[match.end() :])
    return tuple(found)


def dress(pattern: str, rng: random.Random, slots: dict[str, str]) -> str:
    """Typos in the words (never in an entity), greeting, thanks, capital letter, question mark."""
    pieces = re.split(r"(\{\w+\})", pattern)
    if rng.random() < 0.15:
        pieces = [p if p.startswith("{") else _typo(p, rng) for p in pieces]
    text = "".join(slots[p[1:-1]] if p.startswith("{") else p for p in pieces)
    if rng.random() < 0.2:
        text = rng.choice(BEFORE) + text
    if rng.random() < 0.15:
        text += rng.choice(AFTER)
    if rng.random() < 0.4:
        text = text[0].upper() + text[1:] if not pattern.startswith("{") else text
    return text + rng.choice(("", "", "?", "?", ".", "!"))


def _typo(words: str, rng: random.Random) -> str:
    letters = [
        i
        for i in range(1, len(words) - 1)
        if words[i].isalpha() and words[i + 1].isalpha() and words[i - 1].isalpha()
    ]
    if not letters:
        return words
    i = rng.choice(letters)
    kind = rng.random()
    if kind < 0.4:
        return words[:i] + words[i + 1] + words[i] + words[i + 2 :]
    return words[:i] + words[i + 1 :] if kind < 0.8 else words[:i] + words[i] + words[i:]
