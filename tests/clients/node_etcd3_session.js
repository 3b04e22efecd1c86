// A session of the npm package etcd3, unmodified: node node_etcd3_session.js HOST:PORT PART
//
// Prints "watching" once its watch stands (part restart), and "done" at the end.
"use strict";

const assert = require("node:assert");
const { Etcd3, EtcdWatchStreamEnded, isRecoverableError } = require("etcd3");

const [endpoint, part] = process.argv.slice(2);

function next(emitter, event) {
  return new Promise((resolve) => emitter.once(event, resolve));
}

async function keys(client) {
  await client.put("/a/1").value("one");
  await client.put("/a/2").value("two");
  await client.put("/b").value("other");
  assert.strictEqual(await client.get("/a/1").string(), "one");
  assert.strictEqual(await client.get("/none").string(), null);
  assert.deepStrictEqual(await client.getAll().prefix("/a/").strings(), { "/a/1": "one", "/a/2": "two" });
  assert.deepStrictEqual(await client.getAll().prefix("/a/").sort("Key", "Descend").keys(), ["/a/2", "/a/1"]);
  assert.strictEqual(await client.getAll().prefix("/a/").count(), 2);
  assert.deepStrictEqual(await client.getAll().all().limit(1).keys(), ["/a/1"]);
  assert.strictEqual((await client.put("/a/1").value("uno").getPrevious()).value.toString(), "one");
  assert.strictEqual((await client.delete().key("/b").getPrevious())[0].value.toString(), "other");
  assert.strictEqual((await client.delete().prefix("/a/")).deleted, "2");
  const space = client.namespace("space/");
  await space.put("x").value("1");
  assert.strictEqual(await client.get("space/x").string(), "1");
}

async function transactions(client) {
  await client.put("t").value("1");
  let result = await client
    .if("t", "Value", "==", "1")
    .and("none", "Create", "==", 0)
    .then(client.put("t").value("2"), client.get("t"))
    .else(client.delete().key("t"))
    .commit();
  assert.strictEqual(result.succeeded, true);
  assert.strictEqual(result.responses[1].response_range.kvs[0].value.toString(), "2");
  result = await client.if("t", "Version", "==", 1).then().else(client.delete().key("t")).commit();
  assert.strictEqual(result.succeeded, false);
  assert.strictEqual(result.responses[0].response_delete_range.deleted, "1");
  await client.put("counter").value(0);
  const add = () =>
    client.stm({ retries: 100 }).transact(async (tx) => {
      const value = await tx.get("counter").number();
      await tx.put("counter").value(value + 1);
    });
  await Promise.all([add(), add(), add()]);
  assert.strictEqual(await client.get("counter").number(), 3);
}

async function leasesAndLocks(client) {
  const lease = client.lease(60);
  const renewed = next(lease, "keepaliveSucceeded");
  await lease.put("leased").value("1");
  assert.strictEqual(Number((await lease.keepaliveOnce()).TTL), 60);
  await renewed;
  await lease.revoke();
  assert.strictEqual(await client.get("leased").string(), null);
  await client.lock("the lock").ttl(60).do(async () => {
    await assert.rejects(client.lock("the lock").acquire());
  });
  await (await client.lock("the lock").acquire()).release();
  const election = client.election("chosen", 60);
  const campaign = election.campaign("me");
  await next(campaign, "elected");
  assert.strictEqual(await election.leader(), "me");
  await campaign.resign();
  assert.strictEqual(await election.leader(), undefined);
}

async function watches(client) {
  const watcher = await client.watch().prefix("/w/").withPreviousKV().create();
  const seen = [];
  const three = new Promise((resolve) => {
    const take = (kind) => (kv, previous) => {
      seen.push([kind, kv.value.toString(), previous && previous.value.toString()]);
      if (seen.length === 3) resolve();
    };
    watcher.on("put", take("put")).on("delete", take("delete"));
  });
  const deletions = await client.watch().prefix("/w/").only("delete").create();
  const deleted = next(deletions, "delete");
  await client.put("/w/1").value("a");
  await client.put("/w/1").value("b");
  await client.delete().key("/w/1");
  await Promise.all([three, deleted]);
  assert.deepStrictEqual(seen.map((each) => each.slice(0, 2)), [["put", "a"], ["put", "b"], ["delete", ""]]);
  assert.deepStrictEqual(seen.slice(1).map((each) => each[2]), ["a", "b"]);
  await watcher.cancel();
  await deletions.cancel();
  const first = (await client.put("h").value("1")).header.revision;
  const last = (await client.put("h").value("2")).header.revision;
  const history = client.watch().key("h").startRevision(first).watcher();
  assert.strictEqual((await next(history, "put")).value.toString(), "1");
  await history.cancel();
  await client.kv.compact({ revision: last, physical: true });
  await assert.rejects(client.get("h").revision(first).string(), /required revision has been compacted/);
  const late = client.watch().key("h").startRevision(first).watcher();
  assert.match((await next(late, "error")).message, /compact|closed|cancel/i);
}

async function user(client) {
  const root = client.user("root");
  await root.create("pw");
  const role = client.role("root");
  await root.addRole("root");
  await client.auth.authEnable();
  await assert.rejects(client.get("a").string());
  const known = new Etcd3({ hosts: endpoint, auth: { username: "root", password: "pw" } });
  await known.put("a").value("1");
  assert.strictEqual(await known.get("a").string(), "1");
  await known.auth.authDisable();
  known.close();
}

// The server is stopped and started anew after "watching": the watch must go on by itself, without a gap.
async function restart(client) {
  const watcher = await client.watch().key("r").create();
  watcher.on("disconnected", () => {});
  const values = [];
  const all = new Promise((resolve) =>
    watcher.on("put", (kv) => {
      values.push(kv.value.toString());
      if (values.length === 3) resolve();
    }),
  );
  const first = next(watcher, "put");
  await client.put("r").value("1");
  await first;
  console.log("watching");
  await all;
  assert.deepStrictEqual(values, ["1", "2", "3"]);
  await watcher.cancel();
}

async function main() {
  const client = new Etcd3({ hosts: endpoint });
  const parts = { session: [keys, transactions, leasesAndLocks, watches], user: [user], restart: [restart] };
  for (const each of parts[part]) await each(client);
  client.close();
  console.log("done");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
