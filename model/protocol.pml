/* The protocol that keeps acknowledged snapshots: sessions, parts, attempts, pins, packs, pack_use, expiry, collection,
 * sweep, rewriting, readers, a second store, and a catalog that falls back. `python -m model.check` runs its configurations.
 *
 * WORLD. Group G has volume 0 (two addresses; with GROUP2 also volume 1, one address). Group H has volume 2 (one
 * address). A chunk is X or Y. An address has a leaf (a map node that names its chunk); volume 0 has a root above its two
 * leaves, a one-address volume's leaf is its root. Ids are hashes of contents, so equal nodes have equal ids: the items are
 *     0 X   1 Y   2 leaf of X   3 leaf of Y   4 root of (X,X)   5 root of (Y,X)   6 root of (X,Y)
 * and idx[item] is the one place where an item is found. At the start: volume 0 = (X,X), volumes 1 and 2 = (Y), sequence 1.
 *     session 0 (G) makes volume 0 = (Y,X) and volume 1 = (X);  session 1 (G) makes volume 0 = (X,Y), or (X,X) with BACK;
 *     session 2 (H) makes volume 2 = (X).
 * Attempts: 0 and 1 at volume 0 of session 0 (1 takes over), 2 at its volume 1, 3 at session 1, 4 at session 2.
 * Attempt k writes pack k + 2, and attempts 0 and 2 one pack together with SHARED; packs 0 and 1 are there at the start; the rewriter writes pack 7.
 *
 * STEPS. One d_step is one catalog transaction or one effect on the object store. Between two steps anything else may
 * happen. A worker that is never scheduled again has crashed. Answers get lost: a PUT and a registration may be repeated
 * after they succeeded. Deadlines, expiry, collectors and sweepers may strike at any time: no rule rests on a clock.
 * Any number of collectors, sweepers and sealers: their steps keep nothing in memory that the guard does not ask again.
 *
 * CHECKED. `check`: every item of every live snapshot resolves to a present object that holds it, and so does what a
 * reader reads. `count`: after a seal pack_use counts exactly what the head refers to. Leaks: whenever nothing is left to
 * do for housekeeping, wherever workers stopped, each object is in use. FALL: what was acknowledged and has not expired
 * is live after a reconciliation; what a checkpoint knows as expired is not. COPIES: `check` reads a copy at the second
 * store only if it was recorded; `wholes`: what is said to be whole there can be read from there alone.
 *
 * WEAK, WEAK2, WEAK3: rules taken out; protocol.py says which. PROBE=n fails when event n happens: it must.      */
#ifndef WEAK
#define WEAK 0
#endif
#ifndef WEAK2
#define WEAK2 0
#endif
#ifndef WEAK3
#define WEAK3 0
#endif
#ifndef PROBE
#define PROBE 0
#endif
#ifndef WORKERS
#define WORKERS 31          /* bit k: attempt k takes part */
#endif
#ifndef GROUP2
#define GROUP2 0            /* 1: group G has volume 1 too */
#endif
#ifndef REWRITER
#define REWRITER 0
#endif
#ifndef READER
#define READER 0
#endif
#ifndef FALL
#define FALL 0              /* 1: the catalog may return to the start, once */
#endif
#ifndef LAYOUT
#define LAYOUT 0            /* 0: chunk Y alone in pack 1; 1: everything in pack 0 */
#endif
#ifndef BACK
#define BACK 0              /* 1: session 1 returns to contents that an older snapshot had */
#endif
#ifndef SHARED
#define SHARED 0            /* 1: attempts 0 and 2 are at one chunker and fill one pack, that of the first of them */
#endif
#ifndef COPIES
#define COPIES 0            /* 1: a second store gets a copy of each pack */
#endif
#define W(n) (WEAK == n || WEAK2 == n || WEAK3 == n)

#define W_FINISH_STALE  W(1)   /* finish_part: a stale attempt may finish the part                          */
#define W_SEAL_PINS     W(2)   /* seal: pins are not asked for                                              */
#define W_SEAL_LIVE     W(3)   /* seal: packs need not be live                                              */
#define W_SEAL_ATTEMPT  W(4)   /* seal: the part's attempt need not be open                                 */
#define W_REAP_SINGLE   W(5)   /* single pins are reaped                                                    */
#define W_BASE_UNPINNED W(6)   /* expiry: the base of an open session may go                                */
#define W_BASE_DEAD     W(7)   /* seal: the base need not be live                                           */
#define W_NODE_DEDUP    W(8)   /* nodes are looked up; what lies below a known one is not pinned            */
#define W_WINNER_FREE   W(9)   /* register: the winner is returned, but not pinned                          */
#define W_WINNER_UNTOLD W(10)  /* register: the loser is not told and counts its own copy                   */
#define W_CONDEMN_SPLIT W(11)  /* condemn: check, then set, without a lock first                            */
#define W_PIN_UNLOCKED  W(12)  /* look-up: read `live`, pin later, no FOR SHARE                             */
#define W_NO_INTENT     W(13)  /* PUT first, row afterwards; the sweep deletes what has no row              */
#define W_REG_STATE     W(14)  /* register: any state of the pack will do                                   */
#define W_REG_STALE     W(15)  /* register: a stale attempt may register                                    */
#define W_SWEEP_UNSAID  W(16)  /* sweep: deletes without writing `dead`                                     */
#define W_HEAD_MOVED    W(17)  /* seal: the head is not compared, and a group may have two open sessions    */
#define W_RW_UNCHECKED  W(18)  /* rewrite: pins since the marking are not asked for                         */
#define W_RW_STANDING   W(19)  /* rewrite: pins that stood when marking began are not asked for             */
#define W_RD_PACK       W(20)  /* reader: packs are not pinned                                              */
#define W_RD_SNAPSHOT   W(21)  /* reader: the snapshot is not pinned                                        */
#define W_MOVED         W(22)  /* seal: moved_to is not followed                                            */
#define W_BASE_OLDER    W(23)  /* base: the newest live snapshot, though the head has expired               */
#define W_NODE_LAST     W(24)  /* register: for equal nodes the last writer gets the index row              */
#define W_NODE_OWN      W(25)  /* register: for equal nodes the first keeps the row, the second counts its own */
#define W_SWEEP_ONCE    W(26)  /* sweep: what turns up under a dead generation stays                        */
#define W_LOOKUP_STATE  W(27)  /* look-up: pins whatever the index says, live or not                        */
#define W_UNINDEX_ALL   W(28)  /* dead: index rows of the pack's items go wherever they point               */
#define W_ROW_DROPPED   W(29)  /* seal: a row whose count reaches zero is deleted, not closed               */
#define W_ROW_ENDS      W(30)  /* expiry: looks at rows that end there, shortens none                       */
#define W_SEAL_UNLOCKED W(31)  /* seal: no FOR SHARE; condemn reads pack_use, then pins                     */
#define W_FULL_OPEN     W(32)  /* seal without a base: the volume's open rows do not close                 */
#define W_RW_TWO        W(33)  /* rewrite: register (unpinned), then repoint and condemn in a second one    */
#define W_SEAL_TWICE    W(35)  /* seal: a repeated call is not recognised                                   */
#define W_PART_MISSING  W(36)  /* seal: not all parts of the group need be finished                         */
#define W_REG_AGAIN     W(37)  /* register: a repeated call is not recognised, the pack goes into the index anew */
#define W_FALL_FORGET   W(38)  /* fall-back: not reconciled with the manifests                              */
#define W_FALL_COLLECT  W(39)  /* fall-back: collection and sweep do not wait for the reconciliation        */
#define W_FALL_GONE     W(40)  /* fall-back: live rows without an object are not marked dead                */
#define W_FALL_DELETE   W(41)  /* DELETE does not wait for a checkpoint that knows each expiry              */
#define W_FALL_SETTLE   W(43)  /* fall-back: reconciled while a DELETE of the forgotten time may still land */
#define W_FALL_EXPIRED  W(42)  /* fall-back: expiry is not taken from the checkpoint                        */
#define W_FALL_OPEN     W(34)  /* fall-back: sessions open before the reconciliation                        */

#define W_COPY_LATE     W(44)  /* copy: recorded though its pack is no longer live                          */
#define W_COPY_FIRST    W(45)  /* bury: a pack is dead when its first copy is buried                        */
#define W_COPY_SPLIT    W(46)  /* bury: looks for the other tombstone, then buries, without a lock first    */
#define W_COPY_SWEEP    W(47)  /* sweep: does not look at the second store                                  */
#define W_COPY_WHOLE    W(48)  /* a snapshot is said to be whole at the second store without asking         */
#define W_COPY_MOVED    W(49)  /* rewrite: what was said to be whole is not withdrawn                       */
#define W_COPY_TOMB     W(50)  /* condemn: no tombstone for a copy that is not recorded                     */

#define NIL 8
#define B(x) (1 << (x))
#define HAS(m,x) (((m) >> (x)) & 1)
/* pack.state; session.state */
#define NONE 0
#define UPLOADING 1
#define LIVE 2
#define CONDEMNED 3
#define DEAD 4
#define OPEN 1
#define SEALED 2
#define REJECTED 3
/* a worker's next step */
#define P_TAKE 0
#define P_FIND 1
#define P_PIN 2
#define P_PUT 3
#define P_REG 4
#define P_FINISH 5
#define P_OVER 6
#define P_ROW 7
#define P_HEAR 8
#define P_SHARE 9

/* the object store */
byte obj;                     /* bit g: pack g's object is there                                        */
byte has[8];                  /* pack -> its items                                                      */
byte fly;                     /* bit g: a PUT of pack g may still land                                  */
#if FALL
byte man[2];                  /* session -> sequence in its manifest, 0: no manifest                    */
byte dfly;                    /* bit g: a DELETE of pack g may still land                               */
byte ck_expired;              /* newest checkpoint: snapshots expired (as `xp`)                          */
byte told[2];                 /* session -> sequence of its acknowledged snapshot; 0: none, or expired  */
byte xp;                      /* catalog: expired snapshots; bit 2: the first one, bit s: session s     */
bool fell, waiting;           /* the catalog has fallen back; it is not reconciled yet                  */
#else
#define waiting false
#endif
#if COPIES
byte obj2, fly2;              /* second store: objects; PUTs that may still land                        */
byte cp2;                     /* catalog: copies recorded as present at the second store                */
byte tb1, tb2;                /* catalog: tombstones, per store                                         */
byte wh[2];                   /* group -> snapshots that are said to be whole at the second store       */
byte rp = NIL, rs;            /* replicator: pack, next step                                            */
#if W_COPY_SPLIT
byte bl1, bl2;                /* burying at a store: bit g: it has looked, and nothing else stood       */
byte bs1, bs2;                /* bit g: it has looked                                                   */
#endif
#define THERE(g) (HAS(obj,g) || (HAS(obj2,g) && HAS(cp2,g)))
#else
#define THERE(g) HAS(obj,g)
#endif
/* the catalog */
byte st[8];                   /* pack.state                                                             */
byte idx[7];                  /* chunk_<domain>: item -> pack                                           */
byte moved;                   /* bit g: pack g's moved_to is 7                                          */
byte pin[6];                  /* pin: attempt (5: the reader) -> packs                                  */
byte sess[3], base[3], hd0[3];/* session: state, base (sequence, 0: none), head when it opened          */
byte opened;                  /* attempt.open: bit k                                                    */
byte done;                    /* part.state = 'f': bit = part (0, 1: session 0; 2: session 1; 3: session 2) */
byte fby[4];                  /* part -> attempt whose part_use is recorded                             */
byte head[2], live[2];        /* group: head; bit q = snapshot q is live                                */
byte mp[12];                  /* snapshot_volume: volume * 4 + sequence -> contents, bit per address    */
byte cnt[24], cov[24];        /* pack_use: volume * 8 + pack -> open row's addresses; sequences covered */
/* memory of workers */
byte pc[5], ent[5], cont[5];  /* next step; items that enter; items to write                            */
byte loc[35], lf[35];         /* attempt * 7 + item -> pack where it lies; where a departing one was counted */
byte rpc, rv, rq, ra, rg, ri; /* reader: step, volume, sequence, address; pack and item + 1 in its GET  */
bool ract;
byte wpc, wg, wcopy; bool wtouched; /* rewriter: step, old pack, live items, a pin came since marking   */
#if SHARED
byte shs, shg, shm;           /* shared pack: step (1 open, 2 PUT), its number, attempts that have something in it */
#define SHARING(k) (HAS(shm,k) && ISOPEN(k) && (pc[k] == P_SHARE || pc[k] == P_HEAR))
#endif
#if W_CONDEMN_SPLIT || W_SEAL_UNLOCKED
byte cg = NIL;                /* pack between condemn's two statements                                  */
#endif
#if W_ROW_ENDS
byte cand;
#endif
hidden byte i_, g_, v_, q_, k_, s_, m_, n_, t_, x_, a_, p_, y_;

#define SES(k) ((k) <= 2 -> 0 : (k) - 2)
#define VOL(k) ((k) == 2 -> 1 : ((k) == 4 -> 2 : 0))
#define PART(k) ((k) <= 1 -> 0 : (k) - 1)
#define GRP(s) ((s) == 2 -> 1 : 0)
#define GOAL(k) ((k) <= 1 -> 1 : ((k) == 3 -> (BACK -> 0 : 2) : 0))
#define ADDRESSES(v) ((v) == 0 -> 3 : 1)
#define PARTS(s) ((s) == 0 -> (GROUP2 -> 3 : 1) : ((s) == 1 -> 4 : 8))
#define VOLUMES(g,v) ((g) == 1 -> (v) == 2 : (v) == 0 || (GROUP2 && (v) == 1))
#define ADR(m,a) (HAS(m,a) -> 10 : 5)                   /* chunk and leaf of one address               */
#define ITEMS(v,m) ((v) == 0 -> (ADR(m,0) | ADR(m,1) | B(4+(m))) : ADR(m,0))
#define ISOPEN(k) HAS(opened,k)
#define PINS (pin[0] | pin[1] | pin[2] | pin[3] | pin[4] | pin[5])
#define INUSE(g) ((cov[g] & live[0]) || (GROUP2 && (cov[8+(g)] & live[0])) || (cov[16+(g)] & live[1]))
#define HERE(g) ((idx[0]==(g)->1:0)|(idx[1]==(g)->2:0)|(idx[2]==(g)->4:0)|(idx[3]==(g)->8:0)|(idx[4]==(g)->16:0)|(idx[5]==(g)->32:0)|(idx[6]==(g)->64:0))
#if W_SEAL_UNLOCKED
#define LOCKED(m) (cg != NIL && HAS(m,cg))              /* condemn's FOR UPDATE, held over two statements */
#else
#define LOCKED(m) false
#endif

/* Merging of equal states; no rule is here. An attempt that is over is refused whatever it does, but for its PUT; what it
   remembers cannot matter. An expired snapshot's map, a dead pack's items and uses, and rows of dead packs neither.       */
#define STALE_ACTS (W_FINISH_STALE || W_SEAL_PINS || W_SEAL_ATTEMPT || W_REAP_SINGLE || W_PIN_UNLOCKED || W_NO_INTENT || W_REG_STATE || W_REG_STALE || \
                    W_SWEEP_UNSAID || W_LOOKUP_STATE || W_SEAL_TWICE)
#define TIDY_MAP (!(W_BASE_UNPINNED || W_RD_SNAPSHOT || W_BASE_OLDER || FALL))
#define TIDY_ROW (!(W_LOOKUP_STATE || W_UNINDEX_ALL || W_PIN_UNLOCKED || FALL))
#define TIDY_USE (!(W_ROW_ENDS || W_FULL_OPEN || W_BASE_OLDER || W_BASE_UNPINNED || FALL))
inline forget(k) {
  if :: pc[k] == P_PUT -> fly = fly | B(k+2) :: else fi;
  pc[k] = P_OVER; ent[k] = 0; cont[k] = 0;
  for (x_ : 0 .. 6) { loc[(k)*7+x_] = 0; lf[(k)*7+x_] = 0 } }
inline close(k) {                                       /* sessions.close_attempts: the attempt and all its pins */
  if :: ISOPEN(k) -> opened = opened & ~B(k); pin[k] = 0; if :: !STALE_ACTS -> forget(k) :: else fi :: else fi }
inline end(s,state) {
  sess[s] = state; base[s] = 0; hd0[s] = 0; done = done & ~PARTS(s);
  for (k_ : 0 .. 4) { if :: SES(k_) == (s) -> close(k_); if :: pc[k_] == P_TAKE || (!STALE_ACTS && pc[k_] != P_PUT) -> pc[k_] = P_OVER :: else fi; fby[PART(k_)] = 0 :: else fi } }

inline needed() {                                       /* n_: items that live snapshots refer to       */
  n_ = 0;
  for (q_ : 1 .. 3) {
    if :: HAS(live[0],q_) -> n_ = n_ | ITEMS(0,mp[q_]); if :: GROUP2 -> n_ = n_ | ITEMS(1,mp[4+q_]) :: else fi :: else fi;
    if :: HAS(live[1],q_) -> n_ = n_ | ITEMS(2,mp[8+q_]) :: else fi } }
inline check() {
  needed();
  for (x_ : 0 .. 6) { if :: HAS(n_,x_) -> assert(idx[x_] != NIL && THERE(idx[x_]) && HAS(has[idx[x_]],x_)) :: else fi };
  assert(!ract || ri == 0 || (THERE(rg) && HAS(has[rg],ri-1))) }
#if COPIES
inline wholes() {                                       /* what is said to be whole can be read from the second store alone */
  n_ = 0;
  for (q_ : 1 .. 3) {
    if :: HAS(live[0] & wh[0],q_) -> n_ = n_ | ITEMS(0,mp[q_]); if :: GROUP2 -> n_ = n_ | ITEMS(1,mp[4+q_]) :: else fi :: else fi;
    if :: HAS(live[1] & wh[1],q_) -> n_ = n_ | ITEMS(2,mp[8+q_]) :: else fi };
  for (x_ : 0 .. 6) { if :: HAS(n_,x_) -> assert(HAS(obj2,idx[x_]) && HAS(cp2,idx[x_])) :: else fi }; skip }
inline entomb(g) { tb1 = tb1 | B(g); if :: !W_COPY_TOMB || HAS(cp2,g) -> tb2 = tb2 | B(g) :: else fi }
#else
#define wholes() skip
#define entomb(g) skip
#endif
inline count(v,m) {                                     /* pack_use counts what the head refers to      */
  for (x_ : 0 .. 7) {
    n_ = (idx[HAS(m,0)] == x_ -> 1 : 0) + (idx[2+HAS(m,0)] == x_ -> 1 : 0);
    if :: (v) == 0 -> n_ = n_ + (idx[HAS(m,1)] == x_ -> 1 : 0) + (idx[2+HAS(m,1)] == x_ -> 1 : 0) + (idx[4+(m)] == x_ -> 1 : 0) :: else fi;
    assert(cnt[(v)*8+x_] == n_) } }
inline changes(k) {                                     /* m_: addresses that differ from the base       */
  s_ = SES(k); v_ = VOL(k);
  m_ = (base[s_] == 0 -> ADDRESSES(v_) : (GOAL(k) ^ mp[v_*4+base[s_]]) & ADDRESSES(v_)) }
inline touch(packs) { if :: wpc > 0 && HAS(packs,wg) -> wtouched = true :: else fi }

/* ------------------------------------------------------------------ one attempt at one part of a session */
proctype Chunker(byte k) {
  do
  :: d_step { pc[k] == P_TAKE && sess[SES(k)] == OPEN && !HAS(done,PART(k)) && (k != 0 || !ISOPEN(1)) && (k != 1 || pc[0] != P_TAKE) ->   /* take_part */
       if :: k == 1 -> close(0) :: else fi;
       opened = opened | B(k); pc[k] = P_FIND; printf("attempt %d takes its part\n", k) }
  :: d_step { pc[k] == P_FIND && sess[SES(k)] == OPEN && ISOPEN(k) ->                      /* packs._find: ids of changed chunks, a read */
       changes(k); t_ = 0; n_ = 0;
       if :: HAS(m_,0) -> t_ = t_ | ADR(GOAL(k),0) :: else fi;
       if :: HAS(m_,1) -> t_ = t_ | ADR(GOAL(k),1) :: else fi;
       if :: m_ != 0 && v_ == 0 -> t_ = t_ | B(4+GOAL(k)) :: else fi;
       if :: W_NODE_DEDUP ->                                                              /* weak: what lies below a known node is left alone */
             for (i_ : 2 .. 3) { if :: HAS(t_,i_) && idx[i_] != NIL && st[idx[i_]] == LIVE -> n_ = n_ | B(i_-2) :: else fi };
             if :: v_ == 0 && HAS(t_,4+GOAL(k)) && idx[4+GOAL(k)] != NIL && st[idx[4+GOAL(k)]] == LIVE -> n_ = t_ & 15 :: else fi
          :: else fi;
       ent[k] = t_ & ~n_; cont[k] = 0;
       for (i_ : 0 .. 6) {
         if :: HAS(t_,i_) && idx[i_] != NIL && (HAS(n_,i_) || ((i_ < 2 || W_NODE_DEDUP) && (!W_PIN_UNLOCKED || st[idx[i_]] == LIVE))) -> loc[k*7+i_] = idx[i_]
            :: else -> if :: HAS(ent[k],i_) -> cont[k] = cont[k] | B(i_) :: else fi fi };
       pc[k] = P_PIN; printf("attempt %d looks up: enters items %d, to write %d\n", k, ent[k], cont[k]) }
  :: d_step { pc[k] == P_PIN && ISOPEN(k) && !LOCKED(255) ->                              /* lookup_and_pin's second half; count_by_pack; begin_pack */
       changes(k); t_ = 0;
       for (i_ : 0 .. 6) {
         if :: HAS(ent[k],i_) && !HAS(cont[k],i_) ->
               if :: st[loc[k*7+i_]] == LIVE || W_LOOKUP_STATE || W_PIN_UNLOCKED -> t_ = t_ | B(loc[k*7+i_])
                  :: else -> cont[k] = cont[k] | B(i_); loc[k*7+i_] = 0 fi
            :: else fi };
       pin[k] = pin[k] | t_; touch(t_); printf("attempt %d pins packs %d, will write items %d\n", k, t_, cont[k]);
       if :: base[s_] != 0 && m_ != 0 ->                                                  /* where the departing items are counted now */
             t_ = (v_ == 0 -> B(4+mp[base[s_]]) : 0);
             if :: HAS(m_,0) -> t_ = t_ | ADR(mp[v_*4+base[s_]],0) :: else fi;
             if :: HAS(m_,1) -> t_ = t_ | ADR(mp[v_*4+base[s_]],1) :: else fi;
             for (i_ : 0 .. 6) { if :: HAS(t_,i_) && idx[i_] != NIL -> lf[k*7+i_] = idx[i_] :: else fi }
          :: else fi;
       if :: cont[k] == 0 -> pc[k] = P_FINISH
#if SHARED
          :: cont[k] != 0 && (k == 0 || k == 2) && shs < 2 ->                                /* the open pack of the session's parts here */
             if :: shs == 0 -> shs = 1; shg = k+2; st[shg] = UPLOADING :: else fi;
             has[shg] = has[shg] | cont[k]; shm = shm | B(k); pc[k] = P_SHARE
#endif
          :: else -> has[k+2] = cont[k]; pc[k] = P_PUT; if :: !W_NO_INTENT -> st[k+2] = UPLOADING :: else fi fi }
  :: d_step { pc[k] == P_PUT -> obj = obj | B(k+2); pc[k] = (W_NO_INTENT -> P_ROW : P_REG); printf("attempt %d PUTs pack %d\n", k, k+2) }
  :: d_step { pc[k] == P_PUT && !HAS(fly,k+2) -> fly = fly | B(k+2); printf("attempt %d sends pack %d, hears nothing\n", k, k+2) }  /* no answer in time: sent again */
#if W_NO_INTENT
  :: d_step { pc[k] == P_ROW && ISOPEN(k) && st[k+2] == NONE -> st[k+2] = UPLOADING; pc[k] = P_REG; printf("attempt %d enters pack %d\n", k, k+2) }
#endif
  /* register: winners of items that another live pack has are returned and pinned. Its answer may be lost: then again. */
  :: d_step { (pc[k] == P_REG || pc[k] == P_HEAR) && (ISOPEN(k) || W_REG_STALE) && (st[k+2] == UPLOADING || st[k+2] == LIVE || W_REG_STATE) && !LOCKED(255) ->
       t_ = B(k+2);
       for (i_ : 0 .. 6) {
         g_ = idx[i_];
         if :: HAS(cont[k],i_) ->
               if :: g_ != NIL && g_ != k+2 && st[g_] == LIVE && !(W_NODE_LAST && i_ >= 2) && !(W_REG_AGAIN && st[k+2] == LIVE) ->
                     if :: W_WINNER_UNTOLD || (W_NODE_OWN && i_ >= 2) -> loc[k*7+i_] = k+2
                        :: else -> loc[k*7+i_] = g_; if :: W_WINNER_FREE -> skip :: else -> t_ = t_ | B(g_) fi fi
                  :: else -> idx[i_] = k+2; loc[k*7+i_] = k+2 fi
            :: else fi };
       assert(PROBE != 6 || t_ == B(k+2));
       st[k+2] = LIVE; pin[k] = pin[k] | t_; touch(t_); printf("attempt %d registers pack %d, pins packs %d\n", k, k+2, t_);
       pc[k] = P_HEAR }
  :: d_step { pc[k] == P_HEAR -> cont[k] = 0; pc[k] = P_FINISH }
  /* finish_part: what the seal will count is in the catalog from here on */
  :: d_step { pc[k] == P_FINISH && (ISOPEN(k) || W_FINISH_STALE) && sess[SES(k)] == OPEN && (!HAS(done,PART(k)) || W_FINISH_STALE) ->
       done = done | B(PART(k)); fby[PART(k)] = k; pc[k] = P_OVER; printf("attempt %d finishes its part\n", k);
       assert(PROBE != 2 || k != 1) }
  od }

#if SHARED
/* ------------------------------------------------------------------ the pack that attempts 0 and 2 share, whichever of them is still current */
inline tell(k) {
  if :: SHARING(k) ->
        for (i_ : 0 .. 6) { if :: HAS(cont[k],i_) -> loc[(k)*7+i_] = idx[i_] :: else fi };
        pin[k] = pin[k] | t_; pc[k] = P_HEAR
     :: else fi }
proctype Packer() {
  do
  :: d_step { shs == 1 -> obj = obj | B(shg); shs = 2; printf("shared pack %d is PUT\n", shg) }
  :: d_step { shs == 1 && !HAS(fly,shg) -> fly = fly | B(shg); printf("shared pack %d is sent, no answer\n", shg) }
  :: d_step { shs == 2 && (SHARING(0) || SHARING(2)) && (st[shg] == UPLOADING || st[shg] == LIVE) && !LOCKED(255) ->
       t_ = B(shg);
       for (i_ : 0 .. 6) {
         g_ = idx[i_];
         if :: HAS(has[shg],i_) ->
               if :: g_ != NIL && g_ != shg && st[g_] == LIVE -> t_ = t_ | B(g_) :: else -> idx[i_] = shg fi
            :: else fi };
       st[shg] = LIVE; touch(t_); printf("shared pack %d is registered, packs %d are pinned\n", shg, t_);
       assert(PROBE != 16 || ISOPEN(shg-2)); assert(PROBE != 17 || !(SHARING(0) && SHARING(2)));
       tell(0); tell(2) }
  od }
#endif

/* ------------------------------------------------------------------ the seal: whoever finds all parts finished, any number of them */
#define EXPECTED(k) ((HAS(ent[k],0)->B(loc[k*7]):0)|(HAS(ent[k],1)->B(loc[k*7+1]):0)|(HAS(ent[k],2)->B(loc[k*7+2]):0)|(HAS(ent[k],3)->B(loc[k*7+3]):0)| \
                     (HAS(ent[k],4)->B(loc[k*7+4]):0)|(HAS(ent[k],5)->B(loc[k*7+5]):0)|(HAS(ent[k],6)->B(loc[k*7+6]):0))
inline partcheck(k) {                                   /* t_ becomes 0 if the part cannot be sealed     */
  x_ = EXPECTED(k);
  if :: (!ISOPEN(k) && !W_SEAL_ATTEMPT && !W_FINISH_STALE) || (!W_SEAL_PINS && (pin[k] & x_) != x_) || (LOCKED(x_) && !W_SEAL_UNLOCKED) -> t_ = 0 :: else fi;
  for (i_ : 0 .. 7) { if :: HAS(x_,i_) && st[i_] != LIVE && !W_SEAL_LIVE -> t_ = 0 :: else fi } }
inline partcount(k) {                                   /* part_use of one part goes into pack_use       */
  changes(k); q_ = head[GRP(s_)];
  if :: base[s_] == 0 && !W_FULL_OPEN -> for (g_ : 0 .. 7) { cnt[v_*8+g_] = 0 } :: else fi;
  mp[v_*4+q_] = GOAL(k);
  for (a_ : 0 .. 2) {                                   /* address 0, address 1, root                     */
    if :: (a_ < 2 && HAS(m_,a_)) || (a_ == 2 && m_ != 0 && v_ == 0) ->
          t_ = (base[s_] == 0 -> 0 : (a_ == 2 -> B(4+mp[base[s_]]) : ADR(mp[v_*4+base[s_]],a_)));
          n_ = (a_ == 2 -> B(4+GOAL(k)) : ADR(GOAL(k),a_));
          for (i_ : 0 .. 6) {
            if :: HAS(t_,i_) -> g_ = lf[(k)*7+i_]; if :: HAS(moved,g_) && !W_MOVED -> g_ = 7 :: else fi;
                  if :: cnt[v_*8+g_] > 0 -> cnt[v_*8+g_]-- :: else -> assert(W_MOVED || W_BASE_OLDER || W_HEAD_MOVED || W_NODE_LAST || W_NODE_OWN || W_WINNER_UNTOLD || W_REG_AGAIN || W_BASE_DEAD || W_SEAL_TWICE || W_RW_TWO) fi :: else fi;
            if :: HAS(n_,i_) -> cnt[v_*8+loc[(k)*7+i_]]++ :: else fi }
       :: else fi };
  for (g_ : 0 .. 7) {
    if :: cnt[v_*8+g_] > 0 -> cov[v_*8+g_] = cov[v_*8+g_] | B(q_)
       :: else -> if :: W_ROW_DROPPED -> cov[v_*8+g_] = 0 :: else fi fi } }
#define FIRST(s) ((s) == 0 -> fby[0] : ((s) == 1 -> 3 : 4))
#define COMPLETE(s) ((done & PARTS(s)) == PARTS(s) || (W_PART_MISSING && (done & PARTS(s)) != 0))
#define SEALABLE(s) (((sess[s] == OPEN && COMPLETE(s)) || (W_SEAL_TWICE && sess[s] == SEALED && COMPLETE(s))) && (!waiting || W_FALL_OPEN))
#if FALL
#define MANIFEST(s) && man[s] != 0
#else
#define MANIFEST(s)
#endif
proctype Sealer(byte s) {
  do
  :: d_step { sess[s] == 0 && !(waiting && !W_FALL_OPEN) && (s != 0 || sess[1] != OPEN || W_HEAD_MOVED) && (s != 1 || sess[0] != OPEN || W_HEAD_MOVED) &&
       (!FALL || ((s != 0 || pc[0] == P_TAKE) && (s != 1 || pc[3] == P_TAKE))) ->                 /* open_session: the base is the head or nothing  */
       g_ = GRP(s); sess[s] = OPEN; hd0[s] = head[g_]; base[s] = (HAS(live[g_],head[g_]) -> head[g_] : 0);
       if :: W_BASE_OLDER && base[s] == 0 -> base[s] = (HAS(live[g_],2) -> 2 : (HAS(live[g_],1) -> 1 : 0)) :: else fi;
       printf("session %d opens on base %d\n", s, base[s]) }
#if FALL
  :: d_step { s < 2 && SEALABLE(s) && man[s] == 0 -> man[s] = hd0[s] + 1; printf("session %d: manifest of sequence %d PUT\n", s, man[s]) }                /* the manifest is PUT */
#endif
  :: d_step { SEALABLE(s) MANIFEST(s) && (head[GRP(s)] == hd0[s] || W_HEAD_MOVED) && head[GRP(s)] < 3 &&
       (base[s] == 0 || HAS(live[GRP(s)],base[s]) || W_BASE_DEAD) ->                      /* seal */
       t_ = 1; p_ = FIRST(s); partcheck(p_);
       if :: s == 0 && GROUP2 && HAS(done,1) -> partcheck(2) :: else fi;
       if :: t_ == 1 ->
             g_ = GRP(s); head[g_]++; q_ = head[g_]; live[g_] = live[g_] | B(q_); printf("session %d SEALED as sequence %d\n", s, q_);
#if FALL
             told[s] = q_;
#endif
             assert(PROBE != 1 || s != 0); assert(PROBE != 3 || s != 1 || q_ != 3); assert(PROBE != 4 || s != 2); assert(PROBE != 5 || base[s] != 0);
             assert(PROBE != 10 || moved == 0 || s == 2);
             if :: HAS(done,PART(p_)) -> partcount(p_) :: else fi;
             if :: s == 0 && GROUP2 -> if :: HAS(done,1) -> partcount(2) :: else -> mp[4+q_] = 0 fi :: else fi;
             if :: WEAK == 0 && FALL == 0 -> v_ = VOL(p_); m_ = GOAL(p_); count(v_,m_); if :: s == 0 && GROUP2 -> m_ = 0; count(1,m_) :: else fi :: else fi;
             if :: W_SEAL_TWICE -> sess[s] = SEALED; for (k_ : 0 .. 4) { if :: SES(k_) == s -> pin[k_] = 0; opened = opened & ~B(k_) :: else fi }
                :: else -> end(s,SEALED) fi;
             check()
          :: else fi }
  :: d_step { sess[s] == OPEN -> end(s,REJECTED); printf("session %d rejected\n", s) }                                        /* its deadline, a client's or a chunker's word */
  od }

/* ------------------------------------------------------------------ rewriting of a mostly dead pack into pack 7 */
#define RW_MARK(g) :: d_step { wpc == 0 && st[7] == NONE && st[g] == LIVE && HERE(g) != 0 && (!HAS(PINS,g) || W_RW_STANDING) -> \
      needed(); wcopy = HERE(g) & n_; if :: wcopy != 0 -> wg = g; wpc = 1; wtouched = false; st[7] = UPLOADING; has[7] = wcopy; printf("rewriter marks pack %d: live items %d\n", g, wcopy) :: else -> wcopy = 0 fi }
#if COPIES
/* the snapshots that read from the new pack, which has no copy yet; pack_use has their rows */
inline withdraw() { if :: !W_COPY_MOVED -> wh[0] = wh[0] & ~(cov[7] | (GROUP2 -> cov[15] : 0)); wh[1] = wh[1] & ~cov[23] :: else fi }
#else
#define withdraw() skip
#endif
inline rewritten() { wpc = 4; wg = 0; wcopy = 0; wtouched = false }
proctype Rewriter() {
  do
  RW_MARK(0) RW_MARK(1)
  :: d_step { wpc == 1 && HAS(obj,wg) -> obj = obj | B(7); wpc = 2; printf("rewriter PUTs pack 7\n") }
#if W_RW_TWO
  :: d_step { wpc == 2 && st[7] == UPLOADING -> st[7] = LIVE; wpc = 3; printf("rewriter registers pack 7\n") }
#define RW_READY (wpc == 3)
#else
#define RW_READY (wpc == 2 && st[7] == UPLOADING)
#endif
  :: d_step { RW_READY && st[wg] == LIVE && !LOCKED(B(wg)) && (W_RW_UNCHECKED || (!wtouched && (W_RW_STANDING || !HAS(PINS,wg)))) ->
       st[7] = (W_RW_TWO -> st[7] : LIVE); st[wg] = CONDEMNED; entomb(wg); moved = moved | B(wg);                           /* one transaction */
       for (i_ : 0 .. 6) { if :: idx[i_] == wg && HAS(wcopy,i_) -> idx[i_] = 7 :: idx[i_] == wg && !HAS(wcopy,i_) && TIDY_ROW -> idx[i_] = NIL :: else fi };
       for (v_ : 0 .. 2) { cnt[v_*8+7] = cnt[v_*8+7] + cnt[v_*8+wg]; cov[v_*8+7] = cov[v_*8+7] | cov[v_*8+wg]; cnt[v_*8+wg] = 0; cov[v_*8+wg] = 0 };
       assert(PROBE != 7); printf("rewriter repoints pack %d to pack 7 and condemns it\n", wg); withdraw(); rewritten(); check(); wholes() }
  :: d_step { wpc > 0 && wpc < 3 && (st[wg] != LIVE || st[7] == DEAD) -> rewritten() }
  od }

/* ------------------------------------------------------------------ a reader of one address: root, leaf, chunk. Its GET needs no step: `check` demands
   the object from the pin on until the reader goes on.                                                                             */
#define PICK(v,q,a) :: d_step { rpc == 0 && HAS(live[((v) == 2 -> 1 : 0)],q) -> ract = true; rv = v; rq = q; ra = a; rpc = ((v) == 0 -> 1 : 2); printf("reader pins volume %d sequence %d\n", v, q) }
inline closereader() { ract = false; rv = 0; rq = 0; ra = 0; rg = 0; ri = 0; rpc = 5; pin[5] = 0 }
proctype Reader() {
  do
  PICK(0,1,0) PICK(0,2,0) PICK(0,2,1) PICK(0,3,1) PICK(2,1,0) PICK(2,2,0)
  :: d_step { rpc >= 1 && rpc <= 3 && ract && !LOCKED(255) ->                                              /* resolve: located and pinned, live and locked */
       i_ = (rpc == 1 -> 4 + mp[rv*4+rq] : (rpc == 2 -> 2 : 0) + HAS(mp[rv*4+rq],ra));
       assert(idx[i_] != NIL && st[idx[i_]] == LIVE); rg = idx[i_]; ri = i_ + 1;
       if :: !W_RD_PACK -> pin[5] = pin[5] | B(rg); touch(B(rg)) :: else fi; rpc++; printf("reader pins and reads item %d in pack %d\n", i_, rg); check() }
  :: d_step { ract -> assert(PROBE != 8 || rpc != 4 || rq != 2); closereader(); printf("reader ends\n") }                             /* closed, or its deadline */
  od }

/* ------------------------------------------------------------------ expiry, collection, sweep */
#define BASEOF(s,q) (sess[s] == OPEN && base[s] == (q))
#define BASEPIN(g,q) (!W_BASE_UNPINNED && (((g) == 0 && (BASEOF(0,q) || BASEOF(1,q))) || ((g) == 1 && BASEOF(2,q))))
#define READPIN(g,q) (!W_RD_SNAPSHOT && ract && rq == (q) && (rv == 2 -> 1 : 0) == (g))
#if W_ROW_ENDS
#define FOUND(g) HAS(cand,g)
#define ROWENDS(v,q) for (x_ : 0 .. 7) { if :: HAS(cov[(v)*8+x_],q) && (cov[(v)*8+x_] >> ((q)+1)) == 0 && !INUSE(x_) -> cand = cand | B(x_) :: else fi }
#else
#define FOUND(g) true
#define ROWENDS(v,q) skip
#endif
inline expire(g,q) {
  live[g] = live[g] & ~B(q);
  for (v_ : 0 .. 2) {
    if :: VOLUMES(g,v_) ->
          ROWENDS(v_,q);
          if :: TIDY_MAP -> mp[v_*4+(q)] = 0 :: else fi;
          for (x_ : 0 .. 7) { if :: TIDY_USE -> cov[v_*8+x_] = cov[v_*8+x_] & live[g]; if :: head[g] == (q) -> cnt[v_*8+x_] = 0 :: else fi :: else fi }
       :: else fi };
  skip }
#if FALL
#define UNTELL(q) if :: told[0] == (q) -> told[0] = 0; xp = xp | 1 :: told[1] == (q) -> told[1] = 0; xp = xp | 2 :: (q) == 1 -> xp = xp | 4 :: else fi
#else
#define UNTELL(q) skip
#endif
#define EXPIRE(g,q) :: d_step { HAS(live[g],q) && !BASEPIN(g,q) && !READPIN(g,q) && !waiting -> if :: (g) == 0 -> UNTELL(q) :: else fi; expire(g,q); printf("expired: group %d sequence %d\n", g, q) }
#define FREE(g) (st[g] == LIVE && !HAS(PINS,g) && !INUSE(g))
#define HELD (waiting && !W_FALL_COLLECT)
inline unindex(g) { for (x_ : 0 .. 6) { if :: idx[x_] == (g) || (W_UNINDEX_ALL && HAS(has[g],x_)) -> idx[x_] = NIL :: else fi }; skip }
inline condemned(g) {
  st[g] = CONDEMNED; entomb(g);
  if :: TIDY_ROW -> unindex(g) :: else fi;
  if :: TIDY_USE -> for (v_ : 0 .. 2) { cov[v_*8+(g)] = 0 } :: else fi; skip }
#if W_CONDEMN_SPLIT
#define CONDEMN(g) :: d_step { cg == NIL && FREE(g) -> cg = g; printf("pack %d seen to be free\n", g) } :: d_step { cg == g -> if :: st[g] == LIVE -> condemned(g); printf("pack %d condemned\n", g) :: else fi; cg = NIL }
#elif W_SEAL_UNLOCKED
#define CONDEMN(g) :: d_step { cg == NIL && st[g] == LIVE && !INUSE(g) -> cg = g; printf("pack %d seen without use\n", g) } \
                   :: d_step { cg == g -> if :: st[g] == LIVE && !HAS(PINS,g) -> condemned(g); printf("pack %d condemned\n", g) :: else fi; cg = NIL }
#else
#define CONDEMN(g) :: d_step { FREE(g) && FOUND(g) && !HELD && NOTOMB -> condemned(g); printf("pack %d condemned\n", g) }
#endif
/* two tombstones at once are independent of each other: one at a time, to merge equal orders */
#define NOTOMB (st[0]!=CONDEMNED && st[1]!=CONDEMNED && st[2]!=CONDEMNED && st[3]!=CONDEMNED && st[4]!=CONDEMNED && st[5]!=CONDEMNED && st[6]!=CONDEMNED && st[7]!=CONDEMNED)
#define AGAIN(g) (HAS(obj,g) && st[g] == DEAD && !W_SWEEP_ONCE && !HELD)
#if COPIES
#define AGAIN2(g) (HAS(obj2,g) && st[g] == DEAD && !W_COPY_SWEEP && !HELD)
#define FLY2(g) HAS(fly2,g)
#else
#define AGAIN2(g) false
#define FLY2(g) false
#endif
inline dead(g) { st[g] = DEAD; unindex(g); if :: TIDY_ROW -> has[g] = 0 :: else fi }
#if FALL
/* DELETE is sent when a checkpoint knows each expiry so far. It lands whenever it likes, also after the catalog fell back:
   the reconciliation waits until none is under way.                                                                        */
#define DELETE(g) :: d_step { st[g] == CONDEMNED && (xp == ck_expired || W_FALL_DELETE) && !HELD && !HAS(dfly,g) -> dfly = dfly | B(g); printf("DELETE of pack %d sent\n", g) } \
                  :: d_step { HAS(dfly,g) -> dfly = dfly & ~B(g); obj = obj & ~B(g); printf("DELETE of pack %d lands\n", g); if :: st[g] == CONDEMNED -> dead(g) :: else fi; if :: !waiting -> check() :: else fi }
#elif COPIES && W_COPY_SPLIT
#define DELETE(g) :: d_step { st[g] == CONDEMNED && HAS(tb1,g) && !HAS(bs1,g) -> obj = obj & ~B(g); bs1 = bs1 | B(g); if :: !HAS(tb2,g) -> bl1 = bl1 | B(g) :: else fi; printf("pack %d deleted at the first store\n", g) } \
                  :: d_step { st[g] == CONDEMNED && HAS(tb2,g) && !HAS(bs2,g) -> obj2 = obj2 & ~B(g); bs2 = bs2 | B(g); if :: !HAS(tb1,g) -> bl2 = bl2 | B(g) :: else fi; printf("pack %d deleted at the second store\n", g) } \
                  :: d_step { HAS(bs1,g) && HAS(tb1,g) -> tb1 = tb1 & ~B(g); if :: HAS(bl1,g) -> dead(g) :: else -> assert(HAS(tb2,g)) fi; printf("pack %d buried at the first store\n", g) } \
                  :: d_step { HAS(bs2,g) && HAS(tb2,g) -> tb2 = tb2 & ~B(g); cp2 = cp2 & ~B(g); if :: HAS(bl2,g) -> dead(g) :: else -> assert(HAS(tb1,g)) fi; printf("pack %d buried at the second store\n", g) }
#elif COPIES
/* each store's DELETE and its burial are one step, in either order of the stores, however far apart */
#define DELETE(g) :: d_step { st[g] == CONDEMNED && HAS(tb1,g) -> obj = obj & ~B(g); tb1 = tb1 & ~B(g); if :: !HAS(tb2,g) || W_COPY_FIRST -> dead(g) :: else fi; printf("pack %d buried at the first store\n", g); check(); wholes() } \
                  :: d_step { st[g] == CONDEMNED && HAS(tb2,g) -> obj2 = obj2 & ~B(g); cp2 = cp2 & ~B(g); tb2 = tb2 & ~B(g); if :: !HAS(tb1,g) || W_COPY_FIRST -> dead(g) :: else fi; printf("pack %d buried at the second store\n", g); check(); wholes() }
#else
/* the object's DELETE and `dead` are one step: between them the row is condemned, which every guard treats like dead */
#define DELETE(g) :: d_step { st[g] == CONDEMNED -> obj = obj & ~B(g); dead(g); printf("pack %d deleted, dead\n", g); check() }
#endif
#if W_SWEEP_UNSAID
#define SWEEP(g) :: d_step { st[g] == UPLOADING && HAS(obj,g) -> obj = obj & ~B(g); printf("sweep deletes pack %d\n", g) }
#else
#define SWEEP(g) :: d_step { st[g] == UPLOADING && ((g) == 7 || !ISOPEN((g)-2)) && !HELD -> st[g] = DEAD; if :: W_SWEEP_ONCE -> obj = obj & ~B(g) :: else fi; printf("sweep: pack %d dead\n", g) }
#endif
#if FALL || W_NO_INTENT
#define UNKNOWN(g) :: d_step { st[g] == NONE && HAS(obj,g) && !HELD -> if :: W_NO_INTENT -> obj = obj & ~B(g) :: else -> st[g] = DEAD fi; printf("sweep: unknown pack %d\n", g) }
#else
#define UNKNOWN(g)
#endif
#define PACK(g) CONDEMN(g) DELETE(g) :: d_step { AGAIN(g) -> obj = obj & ~B(g); printf("dead pack %d deleted again\n", g); check() } SWEEP(g) UNKNOWN(g) \
   :: d_step { HAS(fly,g) -> fly = fly & ~B(g); obj = obj | B(g); printf("late PUT of pack %d lands\n", g) } PACK2(g)
#if COPIES
#define PACK2(g) :: d_step { AGAIN2(g) -> obj2 = obj2 & ~B(g); printf("dead copy of pack %d swept\n", g) } \
   :: d_step { HAS(fly2,g) -> fly2 = fly2 & ~B(g); obj2 = obj2 | B(g); printf("late PUT of a copy of pack %d lands\n", g) }
#else
#define PACK2(g)
#endif
#define REAP1(k,g) :: d_step { HAS(pin[k],g) -> pin[k] = pin[k] & ~B(g); printf("pin of attempt %d on pack %d reaped\n", k, g) }
#define REAP(k) REAP1(k,0) REAP1(k,1) REAP1(k,2) REAP1(k,3) REAP1(k,4)
/* nothing is left to do for housekeeping (nobody need expire anything) */
#define IDLE(g) (!(FREE(g) && FOUND(g)) && !AGAIN(g) && !AGAIN2(g) && !FLY2(g) && !HAS(fly,g) && st[g] != CONDEMNED && st[g] != UPLOADING && !(st[g] == NONE && HAS(obj,g)))
#define QUIET (PINS == 0 && !ract && !waiting && sess[0] != OPEN && sess[1] != OPEN && sess[2] != OPEN && \
               IDLE(0) && IDLE(1) && IDLE(2) && IDLE(3) && IDLE(4) && IDLE(5) && IDLE(6) && IDLE(7))
proctype Housekeeping() {
  do
  PACK(0) PACK(1) PACK(2) PACK(3) PACK(4) PACK(5) PACK(6) PACK(7)
  EXPIRE(0,1) EXPIRE(0,2) EXPIRE(0,3) EXPIRE(1,1) EXPIRE(1,2)
#if W_REAP_SINGLE
  REAP(0) REAP(1) REAP(2) REAP(3) REAP(4)
#endif
  :: d_step { QUIET ->
       needed();
       for (x_ : 0 .. 7) { if :: HAS(obj,x_) -> g_ = x_; assert((st[x_] == LIVE && (HERE(g_) & n_) != 0) || W_SWEEP_UNSAID) :: else fi };
#if COPIES
       for (x_ : 0 .. 7) {                                                                    /* nor does the second store leak, nor the catalog's rows */
         if :: HAS(obj2,x_) -> assert(st[x_] == LIVE) :: else fi;
         assert(!HAS(cp2 | tb1 | tb2,x_) || (st[x_] == LIVE && !HAS(tb1 | tb2,x_))) };
#endif
       skip }
  od }

#if COPIES
/* ------------------------------------------------------------------ the replicator: copies live packs, and says which snapshots the second store has whole */
#define COPY(g) :: d_step { rp == NIL && st[g] == LIVE && !HAS(cp2,g) -> rp = g; rs = 1; printf("replicator takes pack %d\n", g) }
inline copied() { rp = NIL; rs = 0 }
inline reviewed(g) {                                    /* review_snapshots: none that needs a pack without a copy, and each that does not */
  for (q_ : 1 .. 3) {
    if :: HAS(live[g],q_) ->
          n_ = ((g) == 1 -> ITEMS(2,mp[8+q_]) : ITEMS(0,mp[q_]) | (GROUP2 -> ITEMS(1,mp[4+q_]) : 0)); t_ = 1;
          for (x_ : 0 .. 6) { if :: HAS(n_,x_) && !HAS(cp2,idx[x_]) && !W_COPY_WHOLE -> t_ = 0 :: else fi };
          wh[g] = (t_ == 1 -> wh[g] | B(q_) : wh[g] & ~B(q_))
       :: else -> wh[g] = wh[g] & ~B(q_) fi }; skip }
proctype Replicator() {
  do
  COPY(0) COPY(1) COPY(2) COPY(3) COPY(4) COPY(5) COPY(6) COPY(7)
  :: d_step { rs == 1 -> if :: HAS(obj,rp) -> rs = 2 :: else -> copied() fi }            /* reads its source whole */
  :: d_step { rs == 2 -> obj2 = obj2 | B(rp); rs = 3; printf("replicator PUTs a copy of pack %d\n", rp) }
  :: d_step { rs == 2 && !HAS(fly2,rp) -> fly2 = fly2 | B(rp); printf("replicator sends pack %d, hears nothing\n", rp) }
  :: d_step { rs == 2 -> copied() }                                                         /* it gives up: the next one begins anew */
  :: d_step { rs == 3 && !LOCKED(B(rp)) ->                                                /* record_copies: under FOR SHARE */
       if :: st[rp] == LIVE || W_COPY_LATE -> cp2 = cp2 | B(rp); assert(PROBE != 13) :: else -> assert(PROBE != 14) fi;
       printf("replicator records a copy of pack %d\n", rp); copied() }
  :: d_step { rp == NIL -> reviewed(0); reviewed(1); assert(PROBE != 15 || wh[0] != 4); wholes() }
  od }
#endif

/* ------------------------------------------------------------------ the start, which is also yesterday's catalog */
inline yesterday() {
  for (g_ : 0 .. 7) { st[g_] = NONE; pin[(g_ > 5 -> 5 : g_)] = 0 };
  for (i_ : 0 .. 6) { idx[i_] = NIL };
  for (i_ : 0 .. 23) { cnt[i_] = 0; cov[i_] = 0 };
  for (i_ : 0 .. 11) { mp[i_] = 0 };
  st[0] = LIVE; st[1] = LIVE; idx[0] = 0; idx[1] = 1; idx[2] = 0; idx[3] = 0; idx[4] = 0;
  head[0] = 1; head[1] = 1; live[0] = B(1); live[1] = B(1); mp[5] = 1; mp[9] = 1;
  cnt[0] = 5; cov[0] = B(1); cnt[16] = 1; cov[16] = B(1); cnt[17] = 1; cov[17] = B(1);
  if :: FALL -> live[1] = 0; cnt[16] = 0; cov[16] = 0; cnt[17] = 0; cov[17] = 0 :: else fi;   /* group H is not looked at */
  if :: GROUP2 -> cnt[8] = 1; cov[8] = B(1); cnt[9] = 1; cov[9] = B(1) :: else fi;
  if :: LAYOUT == 1 -> idx[1] = 0; st[1] = DEAD; cnt[16] = 2; cnt[17] = 0; cov[17] = 0;
        if :: GROUP2 -> cnt[8] = 2; cnt[9] = 0; cov[9] = 0 :: else fi
     :: else fi }
#if FALL
/* `lies`: the pack of item i_ once the store was listed: the one that the index names, or else one that is there */
inline lies() {
  g_ = idx[i_];
  if :: g_ == NIL || !HAS(obj,g_) || st[g_] != LIVE ->
        if :: g_ != NIL && W_FALL_GONE && st[g_] == LIVE -> skip
           :: else -> g_ = NIL; for (x_ : 0 .. 7) { if :: g_ == NIL && HAS(obj,x_) && HAS(has[x_],i_) && st[x_] != DEAD -> g_ = x_ :: else fi } fi
     :: else fi }
/* a manifest comes back as a snapshot if all that it needs is there and the checkpoint does not know it as expired */
inline comeback(s) {
  if :: man[s] != 0 && !(HAS(ck_expired,s) && !W_FALL_EXPIRED) && !W_FALL_FORGET ->
        y_ = ((s) == 0 -> 1 : 2); n_ = ITEMS(0,y_); t_ = 1;
        for (i_ : 0 .. 6) { if :: HAS(n_,i_) -> lies(); if :: g_ == NIL -> t_ = 0 :: else fi :: else fi };
        assert(t_ == 1 || told[s] == 0);
        if :: t_ == 1 ->
              q_ = (man[s] > head[0] -> man[s] : head[0] + 1);
              head[0] = q_; live[0] = live[0] | B(q_); mp[q_] = y_; a_ = a_ | B(s);
              for (i_ : 0 .. 6) { if :: HAS(n_,i_) -> lies(); idx[i_] = g_; st[g_] = LIVE :: else fi }
           :: else fi
     :: else fi }
proctype Catalog() {
  do
  :: d_step { !waiting && ck_expired != xp -> ck_expired = xp; printf("checkpoint: expired %d\n", ck_expired) }
  :: d_step { !fell -> fell = true; waiting = true; xp = 0; opened = 0; done = 0;           /* Postgres returns to yesterday */
       for (s_ : 0 .. 2) { sess[s_] = 0; base[s_] = 0; hd0[s_] = 0 };
       for (k_ : 0 .. 4) { fby[(k_ > 3 -> 3 : k_)] = 0; if :: pc[k_] != P_TAKE -> forget(k_) :: else fi };
       yesterday(); printf("THE CATALOG FALLS BACK\n") }
  :: d_step { waiting && (dfly == 0 || W_FALL_SETTLE) -> printf("reconcile\n");                                                                   /* reconcile */
       if :: !W_FALL_FORGET -> 
       for (x_ : 0 .. 7) {
         if :: (st[x_] == LIVE && !HAS(obj,x_) && !W_FALL_GONE) -> st[x_] = DEAD :: else fi };
       for (i_ : 0 .. 6) { if :: idx[i_] != NIL && st[idx[i_]] == DEAD -> lies(); idx[i_] = NIL; if :: g_ != NIL && st[g_] == LIVE -> idx[i_] = g_ :: else fi :: else fi }
          :: else fi;
       if :: HAS(ck_expired,2) && !W_FALL_EXPIRED -> live[0] = live[0] & ~B(1); xp = xp | 4 :: else fi;
       a_ = 0;
       if :: man[0] <= man[1] -> comeback(0); comeback(1) :: else -> comeback(1); comeback(0) fi;
       assert((told[0] == 0 || HAS(a_,0)) && (told[1] == 0 || HAS(a_,1)));                  /* what was acknowledged is back */
       assert(ck_expired == 0 || (!(HAS(ck_expired,0) && HAS(a_,0)) && !(HAS(ck_expired,1) && HAS(a_,1)) && !(HAS(ck_expired,2) && HAS(live[0],1))));
       for (i_ : 0 .. 7) { cnt[i_] = 0; cov[i_] = 0 };                                      /* uses are counted anew */
       for (q_ : 1 .. 3) {
         if :: HAS(live[0],q_) ->
               for (i_ : 0 .. 6) { if :: HAS(ITEMS(0,mp[q_]),i_) -> assert(idx[i_] != NIL); cov[idx[i_]] = cov[idx[i_]] | B(q_) :: else fi };
               if :: q_ == head[0] ->
                     for (i_ : 0 .. 1) { g_ = idx[HAS(mp[q_],i_)]; cnt[g_]++; g_ = idx[2+HAS(mp[q_],i_)]; cnt[g_]++ }; g_ = idx[4+mp[q_]]; cnt[g_]++
                  :: else fi
            :: else fi };
       for (s_ : 0 .. 1) { told[s_] = 0 };
       for (q_ : 2 .. 3) { if :: HAS(live[0],q_) -> if :: mp[q_] == 1 -> told[0] = q_; sess[0] = SEALED :: else -> told[1] = q_; sess[1] = SEALED fi :: else fi };
       waiting = false; assert(PROBE != 9 || a_ == 0); assert(PROBE != 11 || a_ != 3); assert(PROBE != 12 || !HAS(ck_expired,2)); check() }
  od }
#endif
init {
  d_step {
    yesterday(); obj = (LAYOUT == 1 -> 1 : 3); has[0] = (LAYOUT == 1 -> 31 : 29); has[1] = 2;
    for (k_ : 0 .. 4) { if :: !HAS(WORKERS,k_) -> pc[k_] = P_OVER :: else fi };
    if :: (WORKERS & 7) == 0 -> sess[0] = REJECTED :: else fi;
    if :: !HAS(WORKERS,3) -> sess[1] = REJECTED :: else fi;
    if :: !HAS(WORKERS,4) -> sess[2] = REJECTED :: else fi }
  atomic {
    run Housekeeping();
    if :: (WORKERS & 7) != 0 -> run Sealer(0) :: else fi; if :: HAS(WORKERS,3) -> run Sealer(1) :: else fi; if :: HAS(WORKERS,4) -> run Sealer(2) :: else fi;
    if :: HAS(WORKERS,0) -> run Chunker(0) :: else fi; if :: HAS(WORKERS,1) -> run Chunker(1) :: else fi; if :: HAS(WORKERS,2) -> run Chunker(2) :: else fi;
    if :: HAS(WORKERS,3) -> run Chunker(3) :: else fi; if :: HAS(WORKERS,4) -> run Chunker(4) :: else fi
#if REWRITER
    ; run Rewriter()
#endif
#if SHARED
    ; run Packer()
#endif
#if READER
    ; run Reader()
#endif
#if FALL
    ; run Catalog()
#endif
#if COPIES
    ; run Replicator()
#endif
  } }
