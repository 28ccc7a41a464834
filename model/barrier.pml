/* The barrier at which nodes that write one shared disk are cut, its lead, and what each node knows of changes.
 *
 * WORLD. NODES nodes write a disk of two chunks through filters. Node 0 is the lead. A write has two effects: its node's
 * bit of the chunk (`bits`), and the chunk's new contents, which are the write's number. `past[n]` is the disk after n
 * writes. There is a base (the disk before any write, session 0), then sessions 1 and 2, one after the other.
 *
 * STEPS. One d_step is one step of a node, one catalog transaction, or one message with its answer. Orders and answers get
 * lost, and whoever is never scheduled again has crashed. A hold may end by its deadline at any time. The lead may not
 * answer. A node's filter may crash once, and forgets what is in its memory. Two coordinators may work at one session.
 *
 * CHECKED. What is sealed is the disk as it was at one instant after the session was opened: whatever one writes after
 * reading what another wrote is later in `past`. So no effect is in a snapshot without its cause.
 *
 * WEAK, WEAK2: rules taken out; barrier.py says which. PROBE=n fails when event n happens: it must.      */
#ifndef WEAK
#define WEAK 0
#endif
#ifndef WEAK2
#define WEAK2 0
#endif
#ifndef PROBE
#define PROBE 0
#endif
#ifndef NODES
#define NODES 2
#endif
#ifndef WRITES
#define WRITES 3            /* writes to the disk, of all nodes together */
#endif
#ifndef SESSIONS
#define SESSIONS 2
#endif
#ifndef TWO
#define TWO 0               /* 1: a second coordinator begins a newer attempt at any time */
#endif
#ifndef CRASH
#define CRASH 0             /* 1: a filter may crash, once */
#endif
#ifndef HOLDS_END
#define HOLDS_END 1         /* 1: a hold may end by its deadline at any time */
#endif
#define W(n) (WEAK == n || WEAK2 == n)

#define W_DRAIN     W(1)    /* hold: does not wait for writes that have begun                            */
#define W_PHASES    W(2)    /* a node is cut as soon as it holds, whatever the others do                 */
#define W_UNBROKEN  W(3)    /* the cut counts although a hold ended before its release                   */
#define W_ATTEMPT   W(4)    /* nodes carry out orders of an older attempt                                */
#define W_ASK       W(5)    /* nodes other than the lead overwrite without asking it                     */
#define W_OWN       W(6)    /* the lead overwrites without saving                                        */
#define W_LOOK      W(7)    /* a reader of the view does not look for saved bytes after it has read      */
#define W_CONFIRM   W(8)    /* nobody asks the nodes at the end whether they broke the view              */
#define W_BREAK     W(9)    /* a node that got no answer overwrites, and does not say so                 */
#define W_EPOCH     W(10)   /* a filter that was started anew confirms what it does not know             */
#define W_UNION     W(11)   /* only the lead's bits are taken                                            */
#define W_BACK      W(12)   /* bits of a session that was not sealed are dropped                         */
#define W_MARK      W(13)   /* a write is acknowledged before it is marked                              */
#define W_LOST      W(14)   /* a filter that was started anew says that nothing changed                  */
#define W_BASE      W(15)   /* bits of before the cut are dropped whatever the base of the next one is   */
#define W_EARLY     W(16)   /* the nodes are asked before the last chunk of the view was read            */

#define CHUNKS 2
#define ALL 3               /* both bits */
#define NONE 255

byte disk[CHUNKS];          /* number of the write that is there */
byte past[10];              /* past[n]: chunk 0 and 1 after n writes, as 16 * chunk 1 + chunk 0 */
byte writes;

/* filters, by node */
byte bits[NODES];           /* chunks written since the last cut, or since the base */
byte before[NODES];         /* chunks written before the last cut, while nobody knows what became of its session */
byte before_of[NODES];      /* the session of that cut; NONE */
bool lost[NODES];           /* it does not know what changed since its base */
byte attempt[NODES];        /* newest attempt that it has prepared, over both sessions */
bool held[NODES];
bool cut[NODES];            /* of this attempt */
bool keeps[NODES];          /* overwrites ask the lead: a cut is in force */
byte keeps_of[NODES];       /* ... of this attempt */
bool broke[NODES];          /* it overwrote something that nobody saved */
byte writing[NODES];        /* chunk + 1 that is being written; 0 */
bool admitted[NODES];       /* that write has asked, if it must */
bool crashed;

/* the lead's frozen view */
bool saved[CHUNKS];
byte kept[CHUNKS];
byte view_of;               /* attempt whose view it has */

/* the catalog */
byte session;               /* the open one */
byte current;               /* attempt that counts */
byte begun;                 /* writes when the session was opened */
bool recorded;              /* its cut */
byte base;                  /* session that was sealed last */
byte sealed[CHUNKS];        /* contents of its snapshot */
bool over;                  /* the session has ended */

inline forget_cut(n, is_sealed) {
    if
    :: before_of[n] == NONE -> skip
    :: else ->
        if
        :: is_sealed || W_BACK -> skip
        :: else -> bits[n] = bits[n] | before[n]
        fi;
        before[n] = 0; before_of[n] = NONE
    fi
}

inline cut_node(n, now) {
    if
    :: now ->
        before[n] = before[n] | bits[n]; before_of[n] = s; bits[n] = 0; cut[n] = true; keeps[n] = true; keeps_of[n] = a;
        broke[n] = false;
        if
        :: n == 0 -> view_of = a; saved[0] = false; saved[1] = false; kept[0] = 0; kept[1] = 0
        :: else -> skip
        fi
    :: else -> skip
    fi
}

/* A writer: somebody on node n who writes any chunk at any time. */
proctype Writer(byte n) {
    byte c, owed;
    do
    :: d_step { writes < WRITES && !held[n] && writing[n] == 0 ->
        writing[n] = 1; admitted[n] = false;
        if :: W_MARK -> skip :: else -> bits[n] = bits[n] | 1 fi }
    :: d_step { writes < WRITES && !held[n] && writing[n] == 0 ->
        writing[n] = 2; admitted[n] = false;
        if :: W_MARK -> skip :: else -> bits[n] = bits[n] | 2 fi }
    :: d_step { writing[n] > 0 && !admitted[n] && !keeps[n] -> admitted[n] = true }
    :: d_step { writing[n] > 0 && !admitted[n] && keeps[n] ->     /* the lead saves it, once */
        c = writing[n] - 1;
        if
        :: (n > 0 && W_ASK) || (n == 0 && W_OWN) -> skip
        :: else ->
            if
            :: view_of == keeps_of[n] && !saved[c] -> saved[c] = true; kept[c] = disk[c]
            :: view_of == keeps_of[n] && saved[c] -> skip
            :: else -> broke[n] = true                            /* the lead has let it go */
            fi
        fi;
        c = 0; admitted[n] = true }
    :: d_step { writing[n] > 0 && !admitted[n] && keeps[n] && n > 0 ->   /* the lead does not answer */
        if :: W_BREAK -> skip :: else -> broke[n] = true fi;
        admitted[n] = true }
    :: d_step { writing[n] > 0 && admitted[n] && writes < WRITES ->
        c = writing[n] - 1; writes++; disk[c] = writes;
        past[writes] = 16 * disk[1] + disk[0];
        if :: W_MARK -> owed = owed | (c + 1) :: else -> skip fi;
        writing[n] = 0; admitted[n] = false; c = 0 }
    :: d_step { owed > 0 -> bits[n] = bits[n] | owed; owed = 0 }
    od
}

inline crash(n) {
    crashed = true; bits[n] = 0; lost[n] = !W_LOST; before[n] = 0; before_of[n] = NONE; attempt[n] = 0; held[n] = false;
    cut[n] = false; keeps[n] = false; keeps_of[n] = 0; broke[n] = false; writing[n] = 0; admitted[n] = false
}

/* Deadlines of holds, and crashes of filters. */
proctype Trouble() {
    do
    :: d_step { HOLDS_END && held[0] -> held[0] = false }
    :: d_step { HOLDS_END && held[1] -> held[1] = false }
    :: d_step { CRASH && !crashed -> crash(0); view_of = 0; saved[0] = false; saved[1] = false; kept[0] = 0; kept[1] = 0 }
    :: d_step { CRASH && !crashed -> crash(1) }
    od
}

#define KNOWS(n,a) (attempt[n] == a || (W_ATTEMPT && attempt[n] > 0))

/* One coordinator at attempt a of a session; it may end at any step. Each loop asks one node after the other. */
proctype Coordinator(byte s; byte a) {
    byte n, c, chosen, reading, got[CHUNKS];
    bool looked, ok = true;
    /* prepare: an older attempt is let go, and what became of an older cut is learnt from the base */
    do
    :: d_step { n < NODES && attempt[n] < a ->
        attempt[n] = a; held[n] = false; cut[n] = false; keeps[n] = false; keeps_of[n] = 0; broke[n] = false;
        forget_cut(n, (before_of[n] == base || W_BASE)); n++ }
    :: d_step { n == NODES -> n = 0 } break
    od;
    /* hold: new writes wait; then those that have begun are done */
    do
    :: d_step { n < NODES && KNOWS(n,a) && !cut[n] -> held[n] = true; cut_node(n, W_PHASES && writing[n] == 0); n++ }
    :: d_step { n == NODES -> n = 0 } break
    od;
    do
    :: d_step { n < NODES && KNOWS(n,a) && (held[n] || cut[n]) && (writing[n] == 0 || W_DRAIN || cut[n]) -> n++ }
    :: d_step { n == NODES -> n = 0 } break
    od;
    /* cut */
    do
    :: d_step { n < NODES && KNOWS(n,a) && (held[n] || cut[n]) -> cut_node(n, !cut[n]); n++ }
    :: d_step { n == NODES -> n = 0 } break
    od;
    /* release: each says whether it held until now */
    do
    :: d_step { n < NODES && KNOWS(n,a) && cut[n] ->
        if :: !held[n] && !W_UNBROKEN -> ok = false :: else -> skip fi;
        held[n] = false; n++ }
    :: d_step { n == NODES -> n = 0 } break
    od;
    if :: !ok -> goto rejected :: else -> skip fi;
    /* the cut is recorded: the commit of the barrier; the lead takes what any node has written since the base */
    d_step { !over && session == s && !recorded && current == a -> recorded = true;
        do
        :: n < NODES ->
            if
            :: n > 0 && W_UNION -> skip
            :: lost[n] -> chosen = ALL
            :: else -> chosen = chosen | before[n]
            fi;
            n++
        :: else -> break
        od;
        n = 0 }
    if :: W_EARLY -> goto confirm :: else -> skip fi;
read: skip;
    do
    :: d_step { c < CHUNKS && !(chosen & (c + 1)) -> got[c] = sealed[c]; c++ }
    :: c < CHUNKS && (chosen & (c + 1)) ->
        d_step { view_of == a -> looked = saved[c] }
        d_step { view_of == a -> if :: looked -> reading = kept[c] :: else -> reading = disk[c] fi }
        d_step { view_of == a -> if :: saved[c] && !W_LOOK -> reading = kept[c] :: else -> skip fi;
            got[c] = reading; reading = 0; looked = false; c++ }
    :: d_step { c == CHUNKS -> c = 0 } break
    od;
    if :: W_EARLY -> goto seal :: else -> skip fi;
confirm: skip;
    do
    :: d_step { n < NODES && !W_CONFIRM ->
        if
        :: keeps[n] && keeps_of[n] == a && !broke[n] -> skip
        :: W_EPOCH && !keeps[n] && !broke[n] -> skip
        :: else -> ok = false
        fi;
        n++ }
    :: d_step { n == NODES || W_CONFIRM -> n = 0 } break
    od;
    if :: !ok -> goto rejected :: else -> skip fi;
    if :: W_EARLY -> goto read :: else -> skip fi;
seal: skip;
    d_step { !over && session == s && recorded ->
        sealed[0] = got[0]; sealed[1] = got[1]; base = s; over = true; got[0] = 0; got[1] = 0;
        n = begun;
        do
        :: n <= writes && past[n] != 16 * sealed[1] + sealed[0] -> n++
        :: else -> break
        od;
        assert(n <= writes);                                   /* it was so at one instant */
        assert(PROBE != 1);
        assert(!(PROBE == 2 && s == 2));
        assert(!(PROBE == 3 && n > begun && n < writes));
        assert(!(PROBE == 4 && crashed));
        assert(!(PROBE == 5 && a == 2));
        assert(!(PROBE == 6 && chosen != ALL && chosen != 0));
        assert(!(PROBE == 7 && saved[0] && s == 1));
        chosen = 0; n = 0 }
    goto tell;
rejected: skip;
    d_step { !over && session == s && current == a -> over = true; ok = true }
    assert(PROBE != 8);
tell: skip;
    /* the outcome reaches some of the nodes, or none */
    do
    :: d_step { n < NODES -> n++ }
    :: d_step { n < NODES && before_of[n] == s && over && session == s -> forget_cut(n, base == s);
            if :: lost[n] && base == s -> lost[n] = false :: else -> skip fi;
            keeps[n] = false; n++ }
    :: n == NODES -> break
    od
}

/* The catalog opens sessions; the deadline of one whose coordinator is gone rejects it. */
proctype Catalog() {
    do
    :: d_step { session < SESSIONS && (session == 0 || over) ->
        session++; over = false; recorded = false; begun = writes; current = 2 * session - 1 }
        run Coordinator(session, 2 * session - 1)
    :: d_step { TWO && session > 0 && !over && !recorded && current == 2 * session - 1 -> current++ }
        run Coordinator(session, 2 * session)
    :: d_step { session > 0 && !over -> over = true }          /* its deadline */
    od
}

init {
    byte n;
    n = 0;
    do
    :: n < NODES -> before_of[n] = NONE; run Writer(n); n++
    :: else -> break
    od;
    run Trouble();
    run Catalog()
}
