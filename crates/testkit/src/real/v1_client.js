// One session of npm's docker-registry-client with a registry of the v1 API: everything that it can do there.
// Arguments: name with authority, user or '', password, tag, folder for the layers. Says one line of JSON.
'use strict';
const fs = require('fs');
const path = require('path');
const { promisify } = require('util');
const bunyan = require('bunyan');
const registry = require('docker-registry-client');

const [name, username, password, tag, folder] = process.argv.slice(2);
const log = bunyan.createLogger({ name: 'test', level: 'fatal', stream: process.stderr });
const found = {};
let step = 'login';

const once = (object, method, ...given) => promisify(object[method].bind(object))(...given);

async function session() {
    const login = username && { username, password };
    if (login) {
        const index = name.split('/')[0];
        const email = 'user@example.com';
        found.login = (await once(registry, 'loginV1', { index, email, log, ...login })).status;
    }
    const client = registry.createClientV1({ name, log, ...login });
    const ask = (method, ...given) => {
        step = method;
        return once(client, method, ...given);
    };
    try {
        found.ping = await ask('ping');
        // Where nothing can be searched there may still be something to pull.
        found.search = await ask('search', { term: name.split('/').pop() })
            .catch((error) => ({ refused: error.statusCode || error.message }));
        // Without retries.
        found.images = await ask('listRepoImgs', { retry: false });
        found.tags = await ask('listRepoTags');
        found.id = await ask('getImgId', { tag });
        found.ancestry = await ask('getImgAncestry', { imgId: found.id });
        found.json = {};
        for (const imgId of found.ancestry) {
            found.json[imgId] = await ask('getImgJson', { imgId });
            const layer = await ask('getImgLayerStream', { imgId });
            const file = fs.createWriteStream(path.join(folder, imgId));
            await new Promise((done, failed) => {
                layer.on('error', failed);
                layer.on('aborted', () => failed(new Error('aborted')));
                file.on('finish', done);
                layer.pipe(file);
                layer.resume();
            });
        }
    } finally {
        client.close();
    }
}

session().catch((error) => {
    found.refused = [step, error.statusCode || error.message];
}).then(() => {
    console.log(JSON.stringify(found));
    // It would keep its connections open.
    process.exit(0);
});
