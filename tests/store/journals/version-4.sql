BEGIN TRANSACTION;
CREATE TABLE events (
            run_id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            version INTEGER NOT NULL,
            at REAL NOT NULL,
            data TEXT NOT NULL,
            PRIMARY KEY (run_id, seq),
            UNIQUE (run_id, epoch, name)
        );
INSERT INTO "events" VALUES('r-done',1,1,'run/start','run-started',4,1.79527948644747948649e+09,'{"name":"run/start","at":1795279486.4474795,"kind":"run-started","request":{"kind":"orchestration","task":"why?","context":"","constraints":[],"inputs":[{"name":"a.txt","digest":"73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719","chars":5}],"left_out":[],"workers":[],"plan":null,"mode":"auto","decomposition":"hybrid","guard":"","verify":null,"approve":"never","output_schema":null,"limits":{"max_subtasks":8,"slots":8,"subtask_seconds":120.0,"run_seconds":900.0,"ask_seconds":120.0,"max_tokens":16384,"rounds":6,"budget_usd":2.0,"budget_tokens":2000000},"rerun_of":"","redo":[],"plan_gaps":[]},"notice":"","origin":{"principal":"","trace_context":{}}}');
INSERT INTO "events" VALUES('r-done',2,1,'plan/call/1/start','call-started',4,1.79527948645415377617e+09,'{"name":"plan/call/1/start","at":1795279486.4541538,"kind":"call-started","step":"plan/call/1","caller":"planner","model":"fake-big","subtask_id":null}');
INSERT INTO "events" VALUES('r-done',3,1,'plan/call/1','call-finished',4,1.79527948645497798917e+09,'{"name":"plan/call/1","at":1795279486.454978,"kind":"call-finished","caller":"planner","subtask_id":null,"reply":{"text":"{\"analysis\": \"what it is about\", \"direct_answer\": null, \"mode\": \"static\", \"why\": \"all is known from the start\", \"verify\": \"none\", \"subtasks\": [{\"id\": \"s1\", \"worker\": \"analyst\", \"objective\": \"do s1\", \"why\": \"\", \"depends_on\": [], \"priority\": \"medium\", \"inputs\": [\"a.txt\"], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}, {\"id\": \"s2\", \"worker\": \"critic\", \"objective\": \"do s2\", \"why\": \"\", \"depends_on\": [\"s1\"], \"priority\": \"medium\", \"inputs\": [], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}]}","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-done',4,1,'subtask/s1/draft','subtask-drafted',4,1.79527948645512676244e+09,'{"name":"subtask/s1/draft","at":1795279486.4551268,"kind":"subtask-drafted","subtask":{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}');
INSERT INTO "events" VALUES('r-done',5,1,'subtask/s1/start','subtask-started',4,1.79527948645533442497e+09,'{"name":"subtask/s1/start","at":1795279486.4553344,"kind":"subtask-started","subtask_id":"s1","fingerprint":"f839793e19b63b0df3d6e05854f2eaa6672a4a9f43755f8504c98a4f3680082c"}');
INSERT INTO "events" VALUES('r-done',6,1,'subtask/s1/call/1/start','call-started',4,1.79527948645571660993e+09,'{"name":"subtask/s1/call/1/start","at":1795279486.4557166,"kind":"call-started","step":"subtask/s1/call/1","caller":"worker:analyst","model":"fake-small","subtask_id":"s1"}');
INSERT INTO "events" VALUES('r-done',7,1,'subtask/s1/call/1','call-finished',4,1.79527948645587015147e+09,'{"texts":[[["reply","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/call/1","at":1795279486.4558702,"kind":"call-finished","caller":"worker:analyst","subtask_id":"s1","reply":{"text":"","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-done',8,1,'plan/1','plan-accepted',4,1.79527948645809030535e+09,'{"name":"plan/1","at":1795279486.4580903,"kind":"plan-accepted","plan":{"analysis":"what it is about","direct_answer":null,"mode":"static","why":"all is known from the start","verify":"none","subtasks":[{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null},{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}],"custom_workers":[]},"warnings":[],"left_out":[],"estimate":{"calls":{"low":3,"high":3},"tokens":{"low":9000,"high":30000},"usd":{"low":0.0,"high":0.0},"seconds":{"low":18.0,"high":260.0}}}');
INSERT INTO "events" VALUES('r-done',9,1,'subtask/s1/result','subtask-finished',4,1.79527948645829677582e+09,'{"texts":[[["result","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/result","at":1795279486.4582968,"kind":"subtask-finished","result":{"subtask_id":"s1","worker":"analyst","status":"succeeded","text":"","value":null,"parts":[],"errors":[],"notes":[],"sources":[],"usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"seconds":0.0028090476989746094,"saved":null,"taken_from":"","fingerprint":"f839793e19b63b0df3d6e05854f2eaa6672a4a9f43755f8504c98a4f3680082c"}}');
INSERT INTO "events" VALUES('r-done',10,1,'subtask/s2/draft','subtask-drafted',4,1.79527948645862627029e+09,'{"name":"subtask/s2/draft","at":1795279486.4586263,"kind":"subtask-drafted","subtask":{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}');
INSERT INTO "events" VALUES('r-done',11,1,'subtask/s2/start','subtask-started',4,1.79527948645868253713e+09,'{"name":"subtask/s2/start","at":1795279486.4586825,"kind":"subtask-started","subtask_id":"s2","fingerprint":"8d021948c8a973f6f2f8c70c7140d411b12514ff6a97673645a1b4ba93cdbbdf"}');
INSERT INTO "events" VALUES('r-done',12,1,'subtask/s2/call/1/start','call-started',4,1.79527948645898699758e+09,'{"name":"subtask/s2/call/1/start","at":1795279486.458987,"kind":"call-started","step":"subtask/s2/call/1","caller":"worker:critic","model":"fake-small","subtask_id":"s2"}');
INSERT INTO "events" VALUES('r-done',13,1,'subtask/s2/call/1','call-finished',4,1.79527948645919489855e+09,'{"name":"subtask/s2/call/1","at":1795279486.459195,"kind":"call-finished","caller":"worker:critic","subtask_id":"s2","reply":{"text":"done","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-done',14,1,'subtask/s2/result','subtask-finished',4,1.79527948646058607097e+09,'{"name":"subtask/s2/result","at":1795279486.460586,"kind":"subtask-finished","result":{"subtask_id":"s2","worker":"critic","status":"succeeded","text":"done","value":null,"parts":[],"errors":[],"notes":[],"sources":[],"usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"seconds":0.0017919540405273438,"saved":null,"taken_from":"","fingerprint":"8d021948c8a973f6f2f8c70c7140d411b12514ff6a97673645a1b4ba93cdbbdf"}}');
INSERT INTO "events" VALUES('r-done',15,1,'synthesis/start','synthesis-started',4,1.79527948646070814129e+09,'{"name":"synthesis/start","at":1795279486.4607081,"kind":"synthesis-started"}');
INSERT INTO "events" VALUES('r-done',16,1,'synthesis/call/1/start','call-started',4,1.79527948646087384221e+09,'{"name":"synthesis/call/1/start","at":1795279486.4608738,"kind":"call-started","step":"synthesis/call/1","caller":"synthesizer","model":"fake-big","subtask_id":null}');
INSERT INTO "events" VALUES('r-done',17,1,'synthesis/call/1','call-finished',4,1.79527948646098899835e+09,'{"name":"synthesis/call/1","at":1795279486.460989,"kind":"call-finished","caller":"synthesizer","subtask_id":null,"reply":{"text":"because","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-done',18,1,'run/end','run-ended',4,1.7952794864615397453e+09,'{"name":"run/end","at":1795279486.4615397,"kind":"run-ended","status":"succeeded","answer":"because","value":null,"reasons":[],"rest":null}');
INSERT INTO "events" VALUES('r-planned',1,1,'run/start','run-started',4,1795279486.46314,'{"name":"run/start","at":1795279486.46314,"kind":"run-started","request":{"kind":"plan","task":"why?","context":"","constraints":[],"inputs":[{"name":"a.txt","digest":"73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719","chars":5}],"left_out":[],"workers":[],"plan":null,"mode":"auto","decomposition":"hybrid","guard":"","verify":null,"approve":"never","output_schema":null,"limits":{"max_subtasks":8,"slots":8,"subtask_seconds":120.0,"run_seconds":900.0,"ask_seconds":120.0,"max_tokens":16384,"rounds":6,"budget_usd":2.0,"budget_tokens":2000000},"rerun_of":"","redo":[],"plan_gaps":[]},"notice":"","origin":{"principal":"","trace_context":{}}}');
INSERT INTO "events" VALUES('r-planned',2,1,'plan/call/1/start','call-started',4,1795279486.46397,'{"name":"plan/call/1/start","at":1795279486.46397,"kind":"call-started","step":"plan/call/1","caller":"planner","model":"fake-big","subtask_id":null}');
INSERT INTO "events" VALUES('r-planned',3,1,'plan/call/1','call-finished',4,1.79527948646423506735e+09,'{"name":"plan/call/1","at":1795279486.464235,"kind":"call-finished","caller":"planner","subtask_id":null,"reply":{"text":"{\"analysis\": \"what it is about\", \"direct_answer\": null, \"mode\": \"static\", \"why\": \"all is known from the start\", \"verify\": \"none\", \"subtasks\": [{\"id\": \"s1\", \"worker\": \"analyst\", \"objective\": \"do s1\", \"why\": \"\", \"depends_on\": [], \"priority\": \"medium\", \"inputs\": [\"a.txt\"], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}, {\"id\": \"s2\", \"worker\": \"critic\", \"objective\": \"do s2\", \"why\": \"\", \"depends_on\": [\"s1\"], \"priority\": \"medium\", \"inputs\": [], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}]}","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-planned',4,1,'plan/1','plan-accepted',4,1.79527948646504163744e+09,'{"name":"plan/1","at":1795279486.4650416,"kind":"plan-accepted","plan":{"analysis":"what it is about","direct_answer":null,"mode":"static","why":"all is known from the start","verify":"none","subtasks":[{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null},{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}],"custom_workers":[]},"warnings":[],"left_out":[],"estimate":{"calls":{"low":3,"high":3},"tokens":{"low":9000,"high":30000},"usd":{"low":0.0,"high":0.0},"seconds":{"low":18.0,"high":260.0}}}');
INSERT INTO "events" VALUES('r-planned',5,1,'run/end','run-ended',4,1795279486.4655,'{"name":"run/end","at":1795279486.4655,"kind":"run-ended","status":"succeeded","answer":"","value":null,"reasons":[],"rest":null}');
INSERT INTO "events" VALUES('r-cut-off',1,1,'run/start','run-started',4,1.79527948647172403339e+09,'{"name":"run/start","at":1795279486.471724,"kind":"run-started","request":{"kind":"orchestration","task":"why?","context":"","constraints":[],"inputs":[{"name":"a.txt","digest":"73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719","chars":5}],"left_out":[],"workers":[],"plan":null,"mode":"auto","decomposition":"hybrid","guard":"","verify":null,"approve":"never","output_schema":null,"limits":{"max_subtasks":8,"slots":8,"subtask_seconds":120.0,"run_seconds":900.0,"ask_seconds":120.0,"max_tokens":16384,"rounds":6,"budget_usd":2.0,"budget_tokens":2000000},"rerun_of":"","redo":[],"plan_gaps":[]},"notice":"","origin":{"principal":"","trace_context":{}}}');
INSERT INTO "events" VALUES('r-cut-off',2,1,'plan/call/1/start','call-started',4,1.79527948647406768796e+09,'{"name":"plan/call/1/start","at":1795279486.4740677,"kind":"call-started","step":"plan/call/1","caller":"planner","model":"fake-big","subtask_id":null}');
INSERT INTO "events" VALUES('r-cut-off',3,1,'plan/call/1','call-finished',4,1.79527948647458744048e+09,'{"name":"plan/call/1","at":1795279486.4745874,"kind":"call-finished","caller":"planner","subtask_id":null,"reply":{"text":"{\"analysis\": \"what it is about\", \"direct_answer\": null, \"mode\": \"static\", \"why\": \"all is known from the start\", \"verify\": \"none\", \"subtasks\": [{\"id\": \"s1\", \"worker\": \"analyst\", \"objective\": \"do s1\", \"why\": \"\", \"depends_on\": [], \"priority\": \"medium\", \"inputs\": [\"a.txt\"], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}, {\"id\": \"s2\", \"worker\": \"critic\", \"objective\": \"do s2\", \"why\": \"\", \"depends_on\": [\"s1\"], \"priority\": \"medium\", \"inputs\": [], \"expects\": \"\", \"needs_all\": false, \"decisive\": false, \"strategy\": {\"kind\": \"single\"}}]}","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-cut-off',4,1,'subtask/s1/draft','subtask-drafted',4,1.795279486474691391e+09,'{"name":"subtask/s1/draft","at":1795279486.4746914,"kind":"subtask-drafted","subtask":{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}');
INSERT INTO "events" VALUES('r-cut-off',5,1,'subtask/s1/start','subtask-started',4,1.79527948647472143173e+09,'{"name":"subtask/s1/start","at":1795279486.4747214,"kind":"subtask-started","subtask_id":"s1","fingerprint":"f839793e19b63b0df3d6e05854f2eaa6672a4a9f43755f8504c98a4f3680082c"}');
INSERT INTO "events" VALUES('r-cut-off',6,1,'subtask/s1/call/1/start','call-started',4,1.79527948647498893737e+09,'{"name":"subtask/s1/call/1/start","at":1795279486.474989,"kind":"call-started","step":"subtask/s1/call/1","caller":"worker:analyst","model":"fake-small","subtask_id":"s1"}');
INSERT INTO "events" VALUES('r-cut-off',7,1,'subtask/s1/call/1','call-finished',4,1.79527948647511219979e+09,'{"texts":[[["reply","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/call/1","at":1795279486.4751122,"kind":"call-finished","caller":"worker:analyst","subtask_id":"s1","reply":{"text":"","stop_reason":"end","usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"tool_calls":[],"detail":"","native":[],"server_tool_uses":[],"sources":[],"container":""}}');
INSERT INTO "events" VALUES('r-cut-off',8,1,'plan/1','plan-accepted',4,1.79527948647689390183e+09,'{"name":"plan/1","at":1795279486.476894,"kind":"plan-accepted","plan":{"analysis":"what it is about","direct_answer":null,"mode":"static","why":"all is known from the start","verify":"none","subtasks":[{"id":"s1","worker":"analyst","objective":"do s1","why":"","depends_on":[],"priority":"medium","inputs":["a.txt"],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null},{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}],"custom_workers":[]},"warnings":[],"left_out":[],"estimate":{"calls":{"low":3,"high":3},"tokens":{"low":9000,"high":30000},"usd":{"low":0.0,"high":0.0},"seconds":{"low":18.0,"high":260.0}}}');
INSERT INTO "events" VALUES('r-cut-off',9,1,'subtask/s1/result','subtask-finished',4,1.79527948647703242297e+09,'{"texts":[[["result","text"],"56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012"]],"name":"subtask/s1/result","at":1795279486.4770324,"kind":"subtask-finished","result":{"subtask_id":"s1","worker":"analyst","status":"succeeded","text":"","value":null,"parts":[],"errors":[],"notes":[],"sources":[],"usage":{"model":"fake","calls":1,"attempts":1,"tokens_in":100,"tokens_out":10,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.01,"saved_usd":0.0,"seconds":1.0,"searches":0,"fetches":0,"containers":0},"seconds":0.00220489501953125,"saved":null,"taken_from":"","fingerprint":"f839793e19b63b0df3d6e05854f2eaa6672a4a9f43755f8504c98a4f3680082c"}}');
INSERT INTO "events" VALUES('r-cut-off',10,1,'subtask/s2/draft','subtask-drafted',4,1.79527948647718882564e+09,'{"name":"subtask/s2/draft","at":1795279486.4771888,"kind":"subtask-drafted","subtask":{"id":"s2","worker":"critic","objective":"do s2","why":"","depends_on":["s1"],"priority":"medium","inputs":[],"expects":"","needs_all":false,"decisive":false,"strategy":{"kind":"single"},"timeout_seconds":null,"max_tokens":null,"budget_usd":null}}');
INSERT INTO "events" VALUES('r-cut-off',11,1,'subtask/s2/start','subtask-started',4,1.79527948647721719739e+09,'{"name":"subtask/s2/start","at":1795279486.4772172,"kind":"subtask-started","subtask_id":"s2","fingerprint":"8d021948c8a973f6f2f8c70c7140d411b12514ff6a97673645a1b4ba93cdbbdf"}');
INSERT INTO "events" VALUES('r-cut-off',12,1,'subtask/s2/call/1/start','call-started',4,1.79527948647746396059e+09,'{"name":"subtask/s2/call/1/start","at":1795279486.477464,"kind":"call-started","step":"subtask/s2/call/1","caller":"worker:critic","model":"fake-small","subtask_id":"s2"}');
INSERT INTO "events" VALUES('r-cut-off',13,1,'subtask/s2/call/1/failed','call-failed',4,1.79527948647857499122e+09,'{"name":"subtask/s2/call/1/failed","at":1795279486.478575,"kind":"call-failed","step":"subtask/s2/call/1","caller":"worker:critic","subtask_id":"s2","error":"abandoned","usage":{"model":"","calls":0,"attempts":0,"tokens_in":0,"tokens_out":0,"estimated_out":0,"cache_read":0,"cache_write":0,"usd":0.0,"saved_usd":0.0,"seconds":0.0,"searches":0,"fetches":0,"containers":0}}');
CREATE TABLE meta (schema_version INTEGER NOT NULL);
INSERT INTO "meta" VALUES(3);
CREATE TABLE run_texts (
            run_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            PRIMARY KEY (run_id, digest)
        ) WITHOUT ROWID;
INSERT INTO "run_texts" VALUES('r-cut-off','56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012');
INSERT INTO "run_texts" VALUES('r-done','56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012');
INSERT INTO "run_texts" VALUES('r-cut-off','73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719');
INSERT INTO "run_texts" VALUES('r-done','73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719');
INSERT INTO "run_texts" VALUES('r-planned','73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719');
CREATE TABLE runs (
            run_id TEXT PRIMARY KEY,
            created_at REAL NOT NULL,
            epoch INTEGER NOT NULL,
            owner TEXT NOT NULL
        , idempotency_key TEXT);
INSERT INTO "runs" VALUES('r-done',1.79527948644747948649e+09,1,'8cf4583f8e79f0c2',NULL);
INSERT INTO "runs" VALUES('r-planned',1795279486.46314,1,'8cf4583f8e79f0c2',NULL);
INSERT INTO "runs" VALUES('r-cut-off',1.79527948647172403339e+09,1,'7be7434c9057b762',NULL);
CREATE TABLE texts (digest TEXT PRIMARY KEY, text TEXT NOT NULL);
INSERT INTO "texts" VALUES('73ab66a033c267e00b7429bb256f6deb2734ebc4cd4ff5b564a8c9f9b2c8a719','ALPHA');
INSERT INTO "texts" VALUES('56beb3a9303decc83fad8192ff1e7d08bb79d77a158bb5d07726aeb33fb0b012','0. It is so – for a reason.
1. It is so – for a reason.
2. It is so – for a reason.
3. It is so – for a reason.
4. It is so – for a reason.
5. It is so – for a reason.
6. It is so – for a reason.
7. It is so – for a reason.
8. It is so – for a reason.
9. It is so – for a reason.
10. It is so – for a reason.
11. It is so – for a reason.
12. It is so – for a reason.
13. It is so – for a reason.
14. It is so – for a reason.
15. It is so – for a reason.
16. It is so – for a reason.
17. It is so – for a reason.
18. It is so – for a reason.
19. It is so – for a reason.
20. It is so – for a reason.
21. It is so – for a reason.
22. It is so – for a reason.
23. It is so – for a reason.
24. It is so – for a reason.
25. It is so – for a reason.
26. It is so – for a reason.
27. It is so – for a reason.
28. It is so – for a reason.
29. It is so – for a reason.
30. It is so – for a reason.
31. It is so – for a reason.
32. It is so – for a reason.
33. It is so – for a reason.
34. It is so – for a reason.
35. It is so – for a reason.
36. It is so – for a reason.
37. It is so – for a reason.
38. It is so – for a reason.
39. It is so – for a reason.
40. It is so – for a reason.
41. It is so – for a reason.
42. It is so – for a reason.
43. It is so – for a reason.
44. It is so – for a reason.
45. It is so – for a reason.
46. It is so – for a reason.
47. It is so – for a reason.
48. It is so – for a reason.
49. It is so – for a reason.
50. It is so – for a reason.
51. It is so – for a reason.
52. It is so – for a reason.
53. It is so – for a reason.
54. It is so – for a reason.
55. It is so – for a reason.
56. It is so – for a reason.
57. It is so – for a reason.
58. It is so – for a reason.
59. It is so – for a reason.');
CREATE INDEX runs_by_time ON runs (created_at);
CREATE UNIQUE INDEX runs_by_key ON runs (idempotency_key);
CREATE INDEX runs_by_text ON run_texts (digest);
CREATE INDEX events_by_offer ON events (CASE
    WHEN json_valid(data) THEN nullif(json_extract(data, '$.result.fingerprint'), '')
END, at) WHERE kind = 'subtask-finished';
COMMIT;
